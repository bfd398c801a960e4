/*
 * Stochastic gradient descent, plain, with momentum, and with Nesterov momentum in the form of
 *     Sutskever, Martens, Dahl, Hinton. "On the importance of initialization and momentum in deep
 *     learning." ICML 2013,
 * with the learning rate outside the buffer and a dampening, as PyTorch has it:
 *
 *     g = s*g + weight_decay*p
 *     b = momentum*b + (1 - dampening)*g          (at step 1: b = g)
 *     p = p - lr*b        plain: p - lr*g         Nesterov: p - lr*(g + momentum*b)
 */
typedef struct {
    real scale, decay, momentum, rest, lr, momentum_ahead;
} T(sgd_coefficients);

static int T(sgd_prepare)(const void *hyper, unsigned options, void *const *state, void *coefficients)
{
    const struct hyper_sgd *h = hyper;
    T(sgd_coefficients) *c = coefficients;
    const int first = h->step == 1.0;

    if (h->momentum != 0.0 && !state[0])
        return FASTOPT_ERR_BUFFER;
    if ((options & FASTOPT_NESTEROV) && (h->momentum == 0.0 || h->dampening != 0.0))
        return FASTOPT_ERR_OPTION;
    c->scale = (real)fastopt_signed_scale(h->grad_scale, options);
    c->decay = (real)h->weight_decay;
    c->momentum = first ? (real)0.0 : (real)h->momentum;
    c->rest = first ? (real)1.0 : (real)(1.0 - h->dampening);
    c->lr = (real)h->lr;
    c->momentum_ahead = (real)h->momentum;
    return FASTOPT_OK;
}

LOOP T(sgd_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict b,
                 T(sgd_coefficients) c, int with_momentum, int nesterov)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        if (!with_momentum) {
            p[i] = p[i] - c.lr * gi;
            continue;
        }
        const real bi = c.momentum * b[i] + c.rest * gi;
        b[i] = bi;
        p[i] = p[i] - c.lr * (nesterov ? gi + c.momentum_ahead * bi : bi);
    }
}

ENTRY T(sgd)(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
             unsigned options)
{
    const T(sgd_coefficients) c = *(const T(sgd_coefficients) *)coefficients;

    if (!state[0])
        T(sgd_loop)(n, p, g, NULL, c, 0, 0);
    else if (options & FASTOPT_NESTEROV)
        T(sgd_loop)(n, p, g, state[0], c, 1, 1);
    else
        T(sgd_loop)(n, p, g, state[0], c, 1, 0);
}
