// Adam in a loop without Python.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "fastopt_capi.h"

#include <stdexcept>
#include <vector>

namespace py = pybind11;
using array = py::array_t<float, py::array::c_style>;

static const fastopt_capi *fastopt;

static void train(array p_array, const array &target_array, const array &curvature_array, int steps)
{
    const auto n = static_cast<size_t>(p_array.size());
    if (target_array.size() != p_array.size() || curvature_array.size() != p_array.size())
        throw std::invalid_argument("p, target and curvature must have one length");
    float *p = p_array.mutable_data(); // throws if the array is read-only
    const float *target = target_array.data(), *curvature = curvature_array.data();
    std::vector<float> g(n), exp_avg(n), exp_avg_sq(n);

    const py::gil_scoped_release nogil;
    for (int step = 1; step <= steps; step++) {
        for (size_t i = 0; i < n; i++)
            g[i] = curvature[i] * (p[i] - target[i]);
        const int status = fastopt->adam_f32(n, p, g.data(), exp_avg.data(), exp_avg_sq.data(), nullptr, step, 0.1, 0.9,
                                             0.999, 1e-8, 0.0, 1.0, 0);
        if (status)
            throw std::invalid_argument(fastopt->strerror(status));
    }
}

PYBIND11_MODULE(bowl, module)
{
    fastopt = fastopt_import();
    if (!fastopt)
        throw py::error_already_set();
    // noconvert(): an array of another type is an error, not a silent copy.
    module.def("train", &train, "Minimizes the loss over `p`, in place.", py::arg("p").noconvert(),
               py::arg("target").noconvert(), py::arg("curvature").noconvert(), py::arg("steps"));
}
