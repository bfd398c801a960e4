/*
 * doors.c - the loops of calls that sections/doors.py times.
 *
 * Compiled with FASTOPT_CAPSULE, this file is an extension module that reaches the core through the capsule; without,
 * it is compiled together with the core, as in a project that vendors csrc/. Each function takes `calls` Adam steps,
 * from step number `step` on, and returns an error if there was one. The core is another file, so no call is inlined.
 */
#ifdef FASTOPT_CAPSULE
#include <Python.h>

#include "fastopt_capi.h"
#else
#include "internal.h"
#endif

#define HYPERS 1e-3, 0.9, 0.999, 1e-8, 0.0, 1.0 /* lr, beta1, beta2, eps, weight_decay, grad_scale */

#ifdef FASTOPT_CAPSULE

static const fastopt_capi *fastopt;

static PyObject *steps(PyObject *module, PyObject *arguments)
{
    Py_ssize_t calls, n;
    unsigned long long p, g, m, v;
    double step;
    int error = 0;

    (void)module;
    if (!PyArg_ParseTuple(arguments, "ndnKKKK", &calls, &step, &n, &p, &g, &m, &v))
        return NULL;
    for (Py_ssize_t i = 0; i < calls; i++)
        error |= fastopt->adam_f32((size_t)n, (float *)(size_t)p, (const float *)(size_t)g, (float *)(size_t)m,
                                   (float *)(size_t)v, NULL, step++, HYPERS, 0);
    return PyLong_FromLong(error);
}

static PyMethodDef methods[] = {{"steps", steps, METH_VARARGS, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "doors_capsule", .m_size = -1,
                                    .m_methods = methods};

PyMODINIT_FUNC PyInit_doors_capsule(void)
{
    fastopt = fastopt_import();
    return fastopt ? PyModule_Create(&module) : NULL;
}

#else

#define VISIBLE __attribute__((visibility("default")))

/* Calls the loop by its pointer, with the coefficients of the first step or, if `each_step`, with each step's own. */
static int loop(int each_step, size_t calls, double step, size_t n, float *p, const float *g, float *m, float *v)
{
    fastopt_prepare *const prepare = fastopt_rules[RULE_adam].prepare[0];
    fastopt_run *const run = fastopt_loops_of(fastopt_active_set(), FASTOPT_F32)->entries[RULE_adam].run[0];
    double hyper[FASTOPT_MAX_HYPERS] = {step, HYPERS}, coefficients[FASTOPT_MAX_COEFFICIENTS];
    void *const state[FASTOPT_MAX_STATES] = {m, v};
    int error = prepare(hyper, state, 0, coefficients);

    for (size_t i = 0; i < calls; i++) {
        if (each_step) {
            hyper[FASTOPT_ADAM_STEP] = step++;
            error |= prepare(hyper, state, 0, coefficients);
        }
        run(n, p, g, state, coefficients, 0);
    }
    return error;
}

VISIBLE int kernel(size_t calls, double step, size_t n, float *p, const float *g, float *m, float *v)
{
    return loop(0, calls, step, n, p, g, m, v);
}

VISIBLE int coefficients(size_t calls, double step, size_t n, float *p, const float *g, float *m, float *v)
{
    return loop(1, calls, step, n, p, g, m, v);
}

VISIBLE int function(size_t calls, double step, size_t n, float *p, const float *g, float *m, float *v)
{
    int error = 0;
    for (size_t i = 0; i < calls; i++)
        error |= fastopt_adam_f32(n, p, g, m, v, NULL, step++, HYPERS, 0);
    return error;
}

VISIBLE int model(size_t calls, double step, size_t n, float *p, const float *g, float *m, float *v)
{
    fastopt_tensor tensor = {.size = sizeof tensor, .n = n, .p = p, .g = g, .state = {m, v}};
    fastopt_group group;
    fastopt_model all;
    int error = fastopt_group_init(&group, sizeof group, "adam", FASTOPT_F32) | fastopt_model_init(&all, sizeof all);

    group.tensors = &tensor, group.count = 1;
    all.groups = &group, all.count = 1;
    for (size_t i = 0; i < calls; i++) {
        group.hyper[FASTOPT_ADAM_STEP] = step++;
        error |= fastopt_step(&all);
    }
    return error;
}

#endif
