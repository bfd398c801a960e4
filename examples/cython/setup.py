from Cython.Build import cythonize
from setuptools import setup

# No path to fastopt is needed: Cython finds fastopt/capi.pxd in the installed package.
setup(ext_modules=cythonize("bowl.pyx"))
