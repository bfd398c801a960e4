/*
 * fastopt_capi.h - the functions of an installed fastopt, for extension modules in C and C++ (pybind11, nanobind).
 *
 * Nothing is compiled in or linked: the functions come as pointers from the Python package, when the module is imported.
 *
 *     #include <Python.h>
 *     #include "fastopt_capi.h"
 *
 *     const fastopt_capi *fastopt = fastopt_import();
 *     if (!fastopt)
 *         return NULL;                                   (the Python exception is set)
 *     fastopt->adam_f32(n, p, g, ...);                   (fastopt_adam_f32() of fastopt.h)
 *
 * The calls themselves need neither Python nor the GIL. The pointers are good until the process ends.
 *
 * Copyright (c) 2026, the fastopt developers. SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef FASTOPT_CAPI_H
#define FASTOPT_CAPI_H

#include <Python.h>

#include "fastopt.h"

/*
 * Every function of fastopt.h without its prefix, in the order of the table. New ones are appended; none is ever removed,
 * moved or given another prototype.
 */
#define FASTOPT_FUNCTIONS(X) \
    X(sgd_f32) X(sgd_f64) X(momentum_f32) X(momentum_f64) X(nag_f32) X(nag_f64) X(adagrad_f32) X(adagrad_f64) \
    X(adadelta_f32) X(adadelta_f64) X(rmsprop_f32) X(rmsprop_f64) X(adam_f32) X(adam_f64) X(adamw_f32) X(adamw_f64) \
    X(rule) X(find_rule) X(hyper_range) X(step) X(global_norm) X(clip_grad_norm) X(check) X(get_num_threads) \
    X(set_num_threads) X(isa) X(use_isa) X(available_isa) X(version) X(compiler) X(cflags) X(strerror)

#define FASTOPT_CAPI_NAME "fastopt.capi._C_API"

/* Counts up only if a table can no longer be used by those who knew an earlier one. */
#define FASTOPT_CAPI_VERSION 1

typedef struct {
    int capi_version;
    size_t capi_size; /* of the table in bytes: it grows as functions are appended */
#define FASTOPT_POINTER(name) __typeof__(fastopt_##name) *name; /* a pointer to a function with this prototype */
    FASTOPT_FUNCTIONS(FASTOPT_POINTER)
#undef FASTOPT_POINTER
} fastopt_capi;

/*
 * The table of the installed package, or NULL with a Python exception: ModuleNotFoundError if there is no fastopt,
 * ImportError if it has not all the functions that this header names. Needs the GIL.
 */
static inline const fastopt_capi *fastopt_import(void)
{
    PyObject *module = PyImport_ImportModule("fastopt.capi");
    PyObject *capsule = module ? PyObject_GetAttrString(module, "_C_API") : NULL;
    void *pointer = capsule ? PyCapsule_GetPointer(capsule, FASTOPT_CAPI_NAME) : NULL;
#ifdef __cplusplus
    const fastopt_capi *table = static_cast<const fastopt_capi *>(pointer);
#else
    const fastopt_capi *table = pointer;
#endif

    Py_XDECREF(capsule);
    Py_XDECREF(module);
    if (table && (table->capi_version != FASTOPT_CAPI_VERSION || table->capi_size < sizeof(fastopt_capi))) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for fastopt %s (C API %d of %zu bytes), but the fastopt that is "
                     "installed has C API %d of %zu bytes: %s",
                     FASTOPT_VERSION, FASTOPT_CAPI_VERSION, sizeof(fastopt_capi), table->capi_version,
                     table->capi_size,
                     table->capi_version != FASTOPT_CAPI_VERSION ? "compile this module anew" : "install a later one");
        return NULL;
    }
    return table;
}

#endif /* FASTOPT_CAPI_H */
