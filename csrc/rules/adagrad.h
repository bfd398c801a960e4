/*
 * Adagrad,
 *     Duchi, Hazan, Singer. "Adaptive subgradient methods for online learning and stochastic
 *     optimization." JMLR 12 (2011), with the diagonal matrix; lr_decay as in PyTorch.
 *
 *     g = s*g + weight_decay*p
 *     sum = sum + g*g
 *     p = p - lr/(1 + (t-1)*lr_decay) * g / (sqrt(sum) + eps)
 *
 * Where epsilon stands is a matter of coefficients: sqrt(sum + inner) + outer with one of the two zero, which
 * adds exactly nothing.
 */
typedef struct {
    real scale, decay, lr, inner, outer;
} T(adagrad_coefficients);

static int T(adagrad_prepare)(const void *hyper, unsigned options, void *const *state,
                              void *coefficients)
{
    const struct hyper_adagrad *h = hyper;
    T(adagrad_coefficients) *c = coefficients;
    const int inside = (options & FASTOPT_EPS_INSIDE_SQRT) != 0;

    (void)state;
    c->scale = (real)fastopt_signed_scale(h->grad_scale, options);
    c->decay = (real)h->weight_decay;
    c->lr = (real)(h->lr / (1.0 + (h->step - 1.0) * h->lr_decay));
    c->inner = inside ? (real)h->eps : (real)0.0;
    c->outer = inside ? (real)0.0 : (real)h->eps;
    return FASTOPT_OK;
}

LOOP T(adagrad_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict sum,
                     T(adagrad_coefficients) c)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        const real si = sum[i] + gi * gi;
        sum[i] = si;
        p[i] = p[i] - c.lr * gi / (real_sqrt(si + c.inner) + c.outer);
    }
}

ENTRY T(adagrad)(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
                 unsigned options)
{
    (void)options;
    T(adagrad_loop)(n, p, g, state[0], *(const T(adagrad_coefficients) *)coefficients);
}
