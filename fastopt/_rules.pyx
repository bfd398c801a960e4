# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The C core's table of rules, and the core's errors in the words of Python's users."""

from fastopt cimport capi
from fastopt._boundary cimport number, spoken
from fastopt.structs cimport (
    FASTOPT_ERR_BUFFER, FASTOPT_ERR_HYPER, FASTOPT_ERR_OPTION, FASTOPT_F32, FASTOPT_MAX_HYPERS, fastopt_error,
    fastopt_group, fastopt_rule_info,
)

__all__ = ["RULES", "Rule"]


cdef class Rule:
    """One update rule as the C core's table describes it.

    Attributes
    ----------
    name : str
        The name of its functions in `fastopt.kernels` and `fastopt.reference`.
    states : tuple of str
        Its state buffers, in order; the first `required_states` are always needed, the others are optional.
    needed_by : dict of str to str
        For each optional state buffer the hyperparameter that calls for the buffer when it is neither 0 nor False.
    hypers : tuple of str
        Its hyperparameters as C takes them (`beta1`, `beta2` for `betas`), in order.
    options : dict of str to int
        Its switches and their bits.
    columns : dict of str to int
        The index in `hypers` of each hyperparameter that an optimizer's groups have; for `betas`, that of `beta1`.
    numbers : dict of str to int
        The part of `columns` for hyperparameters that are one number and call for no state buffer.
    """

    cdef void begin(self, fastopt_group *group, unsigned options) noexcept:
        """Writes this rule and these options into a group."""
        group.size = sizeof(fastopt_group)
        group.rule = self.index
        group.options = options

    cdef fill(self, fastopt_group *group, tuple hyper, unsigned options):
        """Writes this rule and these hyperparameters, in the table's order, into a group."""
        cdef Py_ssize_t i
        self.begin(group, options)
        for i in range(len(self.hypers)):
            group.hyper[i] = number(self.hypers[i], hyper[i])

    cdef set_by_name(self, fastopt_group *group, dict values):
        """Writes this rule and the hyperparameters of an optimizer's group, floats and bools, into a group."""
        cdef Py_ssize_t column
        cdef unsigned options = 0
        for name, bit in self.options.items():
            if values[name]:
                options |= <unsigned>bit
        self.begin(group, options)
        if self.hypers[0] == "step":
            group.hyper[0] = 1
        group.hyper[len(self.hypers) - 1] = 1  # grad_scale: the model has a field for it
        for name, place in self.columns.items():
            column = place
            if name == "betas":
                group.hyper[column], group.hyper[column + 1] = values[name]
            else:
                group.hyper[column] = values[name]

    cdef unsigned buffers_in_use(self, dict values) except? 0:
        """Which state buffers a tensor under these hyperparameters needs: bit `slot` for `states[slot]`."""
        cdef unsigned used = 0
        cdef int slot
        for slot in range(len(self.states)):
            if slot < self.required_states or values[self.needed_by[self.states[slot]]]:
                used |= 1U << slot
        return used

    cdef fail(self, const fastopt_error *error, str where=""):
        """Raises the core's error as a Python user knows it; `where` names the group if there are several."""
        cdef char text[300]
        cdef float narrow = <float>error.value
        name = "" if error.name == NULL else error.name.decode()
        takes = "" if error.takes == NULL else error.takes.decode()
        if FASTOPT_ERR_HYPER - FASTOPT_MAX_HYPERS < error.code <= FASTOPT_ERR_HYPER:
            found = repr(error.value)
            if error.type == FASTOPT_F32 and name != "step" and narrow != error.value and error.value == error.value:
                found += f" ({<double>narrow!r} as float32)"
            if narrow == 0 and error.value != 0:
                takes += " that float32 does not round to 0"
            raise ValueError(f"{spoken(name)}{where} must be {takes}, got {found}")
        if error.code == FASTOPT_ERR_OPTION and takes:
            raise ValueError(f"{name}{where} needs {takes}")
        if error.code == FASTOPT_ERR_BUFFER and self.needed_by.get(name) in self.hypers:
            raise ValueError(f"{self.name}: {name} must be given when {self.needed_by[name]} is not 0")
        capi.describe(error, text, sizeof(text))
        raise RuntimeError((<bytes>text).decode())

    def __repr__(self):
        return (f"<rule {self.name}: states {self.states}, hyperparameters {self.hypers}, "
                f"options {tuple(self.options)}>")


cdef _read_table():
    cdef const fastopt_rule_info *info
    cdef Rule rule
    cdef int i = 0, j
    table = {}
    while True:
        info = capi.rule(i)
        if info == NULL:
            return table
        rule = Rule.__new__(Rule)
        rule.index = i
        rule.name = info.name.decode()
        rule.required_states = info.required_states
        rule.sums = info.sums
        rule.states = tuple([info.states[j].name.decode() for j in range(info.state_count)])
        rule.hypers = tuple([info.hypers[j].name.decode() for j in range(info.hyper_count)])
        rule.options = {info.options[j].name.decode(): info.options[j].bit for j in range(info.option_count)}
        rule.needed_by = {
            info.states[j].name.decode(): info.states[j].needed_by.decode()
            for j in range(info.state_count) if info.states[j].needed_by != NULL
        }
        rule.columns = {
            "betas" if name == "beta1" else name: j for j, name in enumerate(rule.hypers)
            if name not in ("step", "beta2", "grad_scale")
        }
        calling = ("betas", *rule.needed_by.values())
        rule.numbers = {name: j for name, j in rule.columns.items() if name not in calling}
        table[rule.name] = rule
        i += 1


RULES = _read_table()
