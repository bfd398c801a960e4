/*
 * Nesterov's accelerated gradient,
 *     Nesterov. "A method for solving the convex programming problem with convergence rate O(1/k^2)."
 *     1983; as a momentum method: Sutskever et al., ICML 2013, eq. 3-4; Ruder, arXiv:1609.04747, eq. 5.
 *
 * The gradient is taken at the look-ahead point q = p - momentum*v, where weight decay acts too:
 *
 *     g = s*g + weight_decay*q
 *     v = momentum*v + lr*g
 *     p = p - v
 *
 * At the look-ahead point (FASTOPT_AT_LOOKAHEAD) the array holds q itself. From q = p - momentum*v before
 * and after the step, with v' the new velocity:
 *
 *     q' = p' - momentum*v' = q + momentum*v - v' - momentum*v' = q - (momentum*v' + lr*g)
 *
 * The coefficients are those of classical momentum (momentum.h), whose hyperparameters are the same.
 */
static int T(nag_prepare)(const void *hyper, unsigned options, void *const *state, void *coefficients)
{
    return T(momentum_prepare)(hyper, options, state, coefficients);
}

LOOP T(nag_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict v,
                 T(momentum_coefficients) c, int at_lookahead)
{
    for (size_t i = 0; i < n; i++) {
        const real q = at_lookahead ? p[i] : p[i] - c.momentum * v[i];
        const real gi = c.scale * g[i] + c.decay * q;
        const real vi = c.momentum * v[i] + c.lr * gi;
        v[i] = vi;
        p[i] = p[i] - (at_lookahead ? c.momentum * vi + c.lr * gi : vi);
    }
}

ENTRY T(nag)(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
             unsigned options)
{
    const T(momentum_coefficients) c = *(const T(momentum_coefficients) *)coefficients;

    if (options & FASTOPT_AT_LOOKAHEAD)
        T(nag_loop)(n, p, g, state[0], c, 1);
    else
        T(nag_loop)(n, p, g, state[0], c, 0);
}
