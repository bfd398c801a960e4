import pytest
from common import ISAS

import fastopt


@pytest.fixture(params=ISAS)
def isa(request):
    """Each instruction set of this machine in turn."""
    before = fastopt.isa()
    fastopt.use_isa(request.param)
    yield request.param
    fastopt.use_isa(before)
