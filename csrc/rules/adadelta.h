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
 * The loop takes one root, of the quotient, because square roots limit its speed.
 */
#define ADADELTA_COEFFICIENTS(X) X(scale) X(decay) X(rho) X(rest) X(eps) X(lr)

#ifdef FASTOPT_COEFFICIENTS

struct adadelta_coefficients {
    ADADELTA_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int adadelta_prepare(const struct adadelta_hypers *h, const struct adadelta_states *s, unsigned options,
                                   struct adadelta_coefficients *c)
{
    (void)s;
    (void)options;
    c->scale = h->grad_scale;
    c->decay = h->weight_decay;
    c->rho = h->rho;
    c->rest = 1.0 - h->rho;
    c->eps = h->eps;
    c->lr = h->lr;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    ADADELTA_COEFFICIENTS(FASTOPT_IN_REAL)
} T(adadelta_coefficients);

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

ENTRY T(adadelta)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const struct adadelta_states *s = (const struct adadelta_states *)state;

    (void)options;
    T(adadelta_loop)(n, p, g, s->square_avg, s->acc_delta, *(const T(adadelta_coefficients) *)coefficients);
}

#endif
