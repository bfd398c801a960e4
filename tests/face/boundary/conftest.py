import pytest
from boundary import KERNELS, Engine, Kernel
from common import CLASSES


@pytest.fixture(params=KERNELS)
def kernel(request):
    return Kernel(KERNELS[request.param])


@pytest.fixture
def engine(kernel):
    """The optimizer of the kernel's rule: the same bad input must fail at both doors."""
    return Engine(next(cls for cls in CLASSES if cls.rule == kernel.variant.rule))
