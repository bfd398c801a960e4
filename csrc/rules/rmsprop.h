/*
 * RMSprop,
 *     Tieleman, Hinton. "Lecture 6.5: rmsprop." COURSERA, 2012; centered as in
 *     Graves. "Generating sequences with recurrent neural networks." arXiv:1308.0850, eq. 38-45.
 * v = square_avg, m = grad_avg (centered), b = momentum_buffer (with momentum):
 *
 *     g = s*g + weight_decay*p
 *     v = alpha*v + (1-alpha)*g*g
 *     m = alpha*m + (1-alpha)*g                       u = max(v - m*m, 0)    (not centered: u = v)
 *     d = sqrt(u) + eps
 *     b = momentum*b + g/d                            p = p - lr*b           (no momentum: p - lr*g/d)
 *
 * v - m*m is a variance that rounding can push below zero, where its root would be NaN; so it is clamped at 0. The
 * comparison lets a NaN pass, so that a model that has diverged shows it. The coefficients inner and outer, of which
 * one is zero, put epsilon inside or outside the root, as in Adagrad.
 */
#define RMSPROP_COEFFICIENTS(X) X(scale) X(decay) X(alpha) X(rest) X(inner) X(outer) X(momentum) X(lr)

#ifdef FASTOPT_COEFFICIENTS

struct rmsprop_coefficients {
    RMSPROP_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int rmsprop_prepare(const struct rmsprop_hypers *h, const struct rmsprop_states *s, unsigned options,
                                  struct rmsprop_coefficients *c)
{
    const int inside = (options & FASTOPT_EPS_INSIDE_SQRT) != 0;

    (void)s;
    c->scale = h->grad_scale;
    c->decay = h->weight_decay;
    c->alpha = h->alpha;
    c->rest = 1.0 - h->alpha;
    c->inner = inside ? h->eps : 0.0;
    c->outer = inside ? 0.0 : h->eps;
    c->momentum = h->momentum;
    c->lr = h->lr;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    RMSPROP_COEFFICIENTS(FASTOPT_IN_REAL)
} T(rmsprop_coefficients);

LOOP T(rmsprop_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict v, real *restrict b,
                     real *restrict m, T(rmsprop_coefficients) c, int with_momentum, int centered)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        const real vi = c.alpha * v[i] + c.rest * gi * gi;
        real u = vi;
        v[i] = vi;
        if (centered) {
            const real mi = c.alpha * m[i] + c.rest * gi;
            m[i] = mi;
            u = vi - mi * mi;
            u = u < 0 ? 0 : u;
        }
        const real d = real_sqrt(u + c.inner) + c.outer;
        if (!with_momentum) {
            p[i] = p[i] - c.lr * gi / d;
            continue;
        }
        const real bi = c.momentum * b[i] + gi / d;
        b[i] = bi;
        p[i] = p[i] - c.lr * bi;
    }
}

ENTRY T(rmsprop)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const T(rmsprop_coefficients) c = *(const T(rmsprop_coefficients) *)coefficients;
    const struct rmsprop_states *s = (const struct rmsprop_states *)state;
    real *v = s->square_avg, *b = s->momentum_buffer, *m = s->grad_avg;

    (void)options;
    if (b && m)
        T(rmsprop_loop)(n, p, g, v, b, m, c, 1, 1);
    else if (b)
        T(rmsprop_loop)(n, p, g, v, b, NULL, c, 1, 0);
    else if (m)
        T(rmsprop_loop)(n, p, g, v, NULL, m, c, 0, 1);
    else
        T(rmsprop_loop)(n, p, g, v, NULL, NULL, c, 0, 0);
}

#endif
