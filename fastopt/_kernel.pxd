from fastopt._rules cimport Rule

cdef update(Rule rule, p, g, tuple states, tuple hyper, unsigned options)
