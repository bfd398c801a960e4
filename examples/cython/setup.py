from Cython.Build import cythonize
from setuptools import setup

# Nothing of fastopt is named here: Cython finds fastopt/capi.pxd in the installed package.
setup(ext_modules=cythonize("bowl.pyx"))
