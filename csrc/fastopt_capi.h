/*
 * fastopt_capi.h - the functions of an installed fastopt, for extension modules in C and C++ (pybind11, nanobind).
 *
 * The extension module neither compiles nor links the core: it gets pointers to the functions from the installed Python
 * package when it is imported.
 *
 *     #include <Python.h>
 *     #include "fastopt_capi.h"
 *
 *     const fastopt_capi *fastopt = fastopt_import();
 *     if (!fastopt)
 *         return NULL;                                   (the Python exception is set)
 *     fastopt->adam_f32(n, p, g, ...);                   (fastopt_adam_f32() of fastopt.h)
 *
 * Calling the functions needs neither Python nor the GIL. The pointers are valid until the process ends.
 *
 * Copyright (c) 2026, the fastopt developers. SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef FASTOPT_CAPI_H
#define FASTOPT_CAPI_H

#include <Python.h>

#include "fastopt.h"

#define FASTOPT_CAPI_NAME "fastopt.capi._C_API"

/* It grows only when modules that were compiled for an earlier table can no longer use the present one. */
#define FASTOPT_CAPI_VERSION 1

/* Every structure of fastopt.h that a caller fills in or reads. */
#define FASTOPT_STRUCTURES(X) X(rule_info) X(layout) X(tensor) X(group) X(error) X(model)

typedef struct {
    int capi_version;
    size_t capi_size; /* bytes of this table; later versions append functions */
#define FASTOPT_SIZE(name) size_t sizeof_##name; /* in the compiled library */
    FASTOPT_STRUCTURES(FASTOPT_SIZE)
#undef FASTOPT_SIZE
#define FASTOPT_POINTER(name) __typeof__(fastopt_##name) *name; /* a pointer to a function with this prototype */
    FASTOPT_FUNCTIONS(FASTOPT_POINTER)
#undef FASTOPT_POINTER
} fastopt_capi;

/* Whether a structure has the same size in this module (`here`) and in the installed library (`there`). */
static inline int fastopt_same_size(const char *name, size_t here, size_t there)
{
    if (here == there)
        return 1;
    PyErr_Format(
        PyExc_ImportError,
        "this module was compiled for fastopt %s, where %s has %zu bytes, but in the fastopt that is installed it "
        "has %zu: compile this module again",
        FASTOPT_VERSION, name, here, there);
    return 0;
}

/*
 * Returns the table of the installed package, or NULL with a Python exception: ModuleNotFoundError if fastopt is not
 * installed, ImportError if it lacks functions that this header names or its structures have other sizes. Needs the
 * GIL.
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
    if (!table)
        return NULL;
    if (table->capi_version != FASTOPT_CAPI_VERSION || table->capi_size < sizeof(fastopt_capi)) {
        PyErr_Format(PyExc_ImportError,
                     "this module was compiled for fastopt %s (C API %d of %zu bytes), but the fastopt that is "
                     "installed has C API %d of %zu bytes: %s",
                     FASTOPT_VERSION, FASTOPT_CAPI_VERSION, sizeof(fastopt_capi), table->capi_version, table->capi_size,
                     table->capi_version != FASTOPT_CAPI_VERSION ? "compile this module again" : "install a later one");
        return NULL;
    }
#define FASTOPT_SAME_SIZE(name) \
    if (!fastopt_same_size("fastopt_" #name, sizeof(fastopt_##name), table->sizeof_##name)) \
        return NULL;
    FASTOPT_STRUCTURES(FASTOPT_SAME_SIZE)
#undef FASTOPT_SAME_SIZE
    return table;
}

#endif /* FASTOPT_CAPI_H */
