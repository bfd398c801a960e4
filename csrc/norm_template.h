/*
 * norm_template.h - the loops of the global norm: the sum of squares, and the scaling of gradients.
 *
 * loops.h includes it for each type and instruction set and explains `real`, T() and ENTRY.
 *
 * The bits of a sum depend on the order of its additions, so the order is fixed: element i belongs to lane i mod 16,
 * and each lane adds its squares in the order of the elements. Sixteen lanes keep the widest vector units busy;
 * narrower ones use several registers for them. The square of a float is exact in double, and no sum of such squares
 * overflows. Squares of doubles may overflow or vanish: then norm.c repeats the sum with a scale, a power of two.
 */

/* Adds the squares of scale*g[0..n) to the lanes; g[0] belongs to lane `phase`. */
ENTRY T(sum_squares)(size_t n, const void *grad, size_t phase, double scale, double *lanes)
{
    const real *g = grad;
    double sums[FASTOPT_LANES];
    size_t i = 0;

    for (size_t j = 0; j < FASTOPT_LANES; j++)
        sums[j] = lanes[(phase + j) % FASTOPT_LANES];
    for (; n - i >= FASTOPT_LANES; i += FASTOPT_LANES) {
        for (size_t j = 0; j < FASTOPT_LANES; j++) {
            const double x = scale * (double)g[i + j];
            sums[j] += x * x;
        }
    }
    for (size_t j = 0; j < n - i; j++) {
        const double x = scale * (double)g[i + j];
        sums[j] += x * x;
    }
    for (size_t j = 0; j < FASTOPT_LANES; j++)
        lanes[(phase + j) % FASTOPT_LANES] = sums[j];
}

/* g = factor*g, in double and rounded once: the factor may be one that a float cannot hold. */
ENTRY T(multiply)(size_t n, void *grad, double factor)
{
    real *g = grad;

    for (size_t i = 0; i < n; i++)
        g[i] = (real)(factor * (double)g[i]);
}
