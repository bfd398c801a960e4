/*
 * Minimizes a function of sixteen numbers. They are two tensors, as the weights and the bias of a layer would be, and
 * one call steps both.
 */
#include "fastopt.h"

#include <stdio.h>

enum { N = 16, FIRST = 12, STEPS = 200 };

int main(void)
{
    float p[N] = {0}, g[N] = {0}, exp_avg[N] = {0}, exp_avg_sq[N] = {0};
    fastopt_tensor tensors[] = {
        {.size = sizeof *tensors, .n = FIRST, .p = p, .g = g, .state = {exp_avg, exp_avg_sq}},
        {.size = sizeof *tensors,
         .n = N - FIRST,
         .p = p + FIRST,
         .g = g + FIRST,
         .state = {exp_avg + FIRST, exp_avg_sq + FIRST}},
    };
    fastopt_group group;
    fastopt_model model;

    fastopt_group_init(&group, sizeof group, "adam", FASTOPT_F32); /* with the defaults of Adam, */
    fastopt_set(&group, "lr", 0.1);                                /* except the learning rate */
    group.tensors = tensors, group.count = 2;
    fastopt_model_init(&model, sizeof model);
    model.groups = &group, model.count = 1;

    for (int step = 1; step <= STEPS; step++) {
        float loss = 0;

        for (int i = 0; i < N; i++) {
            const float target = (float)i - 7.5f, curvature = (float)i + 1, error = p[i] - target;
            g[i] = curvature * error;
            loss += g[i] * error / 2;
        }
        if (step == 1 || step % 50 == 0)
            printf("step %d: loss %.3g\n", step, (double)loss);
        group.hyper[FASTOPT_ADAM_STEP] = step;
        if (fastopt_step(&model) != FASTOPT_OK) {
            char sentence[200];
            fastopt_describe(&model.error, sentence, sizeof sentence);
            fprintf(stderr, "fastopt: %s\n", sentence);
            return 1;
        }
    }
    printf("found:");
    for (int i = 0; i < N; i++)
        printf(" %a", (double)p[i]);
    printf("\n");
    return 0;
}
