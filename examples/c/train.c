/*
 * Sixteen numbers find the bottom of a bowl. They are two tensors, as the weights and the bias of a layer would be, and one
 * call steps both.
 */
#include "fastopt.h"

#include <stdio.h>

enum { N = 16, FIRST = 12, STEPS = 200 };

int main(void)
{
    float p[N] = {0}, g[N] = {0}, exp_avg[N] = {0}, exp_avg_sq[N] = {0};
    fastopt_tensor tensors[] = {
        {.n = FIRST, .p = p, .g = g, .state = {exp_avg, exp_avg_sq}},
        {.n = N - FIRST, .p = p + FIRST, .g = g + FIRST, .state = {exp_avg + FIRST, exp_avg_sq + FIRST}},
    };
    fastopt_group group = {
        .rule = fastopt_find_rule("adam"),
        .dtype = FASTOPT_F32,
        .hyper = {1, 0.1, 0.9, 0.999, 1e-8, 0, 1}, /* step, lr, beta1, beta2, eps, weight_decay, grad_scale */
        .count = 2,
        .tensors = tensors,
    };
    fastopt_model model = {.count = 1, .groups = &group, .grad_scale = 1};

    for (int step = 1; step <= STEPS; step++) {
        float loss = 0;

        for (int i = 0; i < N; i++) {
            const float target = (float)i - 7.5f, curvature = (float)i + 1, error = p[i] - target;
            g[i] = curvature * error;
            loss += g[i] * error / 2;
        }
        if (step == 1 || step % 50 == 0)
            printf("step %d: loss %.3g\n", step, (double)loss);
        group.hyper[0] = step;
        const int status = fastopt_step(&model);
        if (status) {
            fprintf(stderr, "fastopt: %s\n", fastopt_strerror(status));
            return 1;
        }
    }
    printf("found:");
    for (int i = 0; i < N; i++)
        printf(" %a", (double)p[i]);
    printf("\n");
    return 0;
}
