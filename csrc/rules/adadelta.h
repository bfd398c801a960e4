/*
 * Adadelta,
 *     Zeiler. "ADADELTA: an adaptive learning rate method." arXiv:1212.5701, algorithm 1; lr as in
 *     PyTorch (the paper's is 1). E = square_avg, X = acc_delta:
 *
 *     g = s*g + weight_decay*p
 *     E = rho*E + (1-rho)*g*g
 *     d = sqrt(X + eps) / sqrt(E + eps) * g
 *     X = rho*X + (1-rho)*d*d
 *     p = p - lr*d
 *
 * The two roots are taken as one, of the quotient: square roots bound this loop.
 */
typedef struct {
    real scale, decay, rho, rest, eps, lr;
} T(adadelta_coefficients);

static int T(adadelta_prepare)(const void *hyper, unsigned options, void *const *state,
                               void *coefficients)
{
    const struct hyper_adadelta *h = hyper;
    T(adadelta_coefficients) *c = coefficients;

    (void)state;
    c->scale = (real)fastopt_signed_scale(h->grad_scale, options);
    c->decay = (real)h->weight_decay;
    c->rho = (real)h->rho;
    c->rest = (real)(1.0 - h->rho);
    c->eps = (real)h->eps;
    c->lr = (real)h->lr;
    return FASTOPT_OK;
}

LOOP T(adadelta_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict square_avg,
                      real *restrict acc_delta, T(adadelta_coefficients) c)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        const real e = c.rho * square_avg[i] + c.rest * gi * gi;
        const real d = real_sqrt((acc_delta[i] + c.eps) / (e + c.eps)) * gi;
        square_avg[i] = e;
        acc_delta[i] = c.rho * acc_delta[i] + c.rest * d * d;
        p[i] = p[i] - c.lr * d;
    }
}

ENTRY T(adadelta)(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
                  unsigned options)
{
    (void)options;
    T(adadelta_loop)(n, p, g, state[0], state[1], *(const T(adadelta_coefficients) *)coefficients);
}
