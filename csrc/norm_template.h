/*
 * norm_template.h - the loops of the global norm: the sum of squares, and the scaling of gradients.
 *
 * Compiled for each type and instruction set by loops.h, which says what `real`, T() and ENTRY are.
 *
 * A sum depends on the order of its additions, so the order is fixed here: element i belongs to lane i mod 16, and
 * each lane adds up its squares in the order of the elements. Sixteen lanes are what the widest vectors keep busy;
 * narrower ones take several registers for them. The square of a float is exact in double, and the sum of any number
 * of them finite; squares of doubles may overflow, for which there is the scale, a power of two (norm.c).
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
