/*
 * Adam,
 *     Kingma, Ba. "Adam: a method for stochastic optimization." ICLR 2015, arXiv:1412.6980, algorithm 1;
 * AMSGrad,
 *     Reddi, Kale, Kumar. "On the convergence of Adam and beyond." ICLR 2018, algorithm 2.
 * m = exp_avg, v = exp_avg_sq, w = max_exp_avg_sq (AMSGrad; on the uncorrected v, as in PyTorch):
 *
 *     g = s*g + weight_decay*p
 *     m = beta1*m + (1-beta1)*g
 *     v = beta2*v + (1-beta2)*g*g                     w = max(w, v)
 *     p = p - lr/(1-beta1^t) * m / (sqrt(v) / sqrt(1-beta2^t) + eps)
 *
 * Both bias corrections are coefficients, so an element costs one root and one division. The loop also serves AdamW
 * (adamw.h), whose decoupled decay multiplies p by the coefficient keep; for Adam keep is 1.
 */
#define ADAM_COEFFICIENTS(X) X(scale) X(decay) X(keep) X(beta1) X(rest1) X(beta2) X(rest2) X(step_size) X(root) X(eps)

#ifdef FASTOPT_COEFFICIENTS

struct adam_coefficients {
    ADAM_COEFFICIENTS(FASTOPT_IN_DOUBLE)
};

static inline int adam_prepare(const struct adam_hypers *h, const struct adam_states *s, unsigned options,
                               struct adam_coefficients *c)
{
    const fastopt_pair rest = fastopt_one_minus_powers(h->beta1, h->beta2, h->step);

    (void)s;
    (void)options;
    c->scale = h->grad_scale;
    c->decay = h->weight_decay;
    c->keep = 1.0;
    c->beta1 = h->beta1;
    c->rest1 = 1.0 - h->beta1;
    c->beta2 = h->beta2;
    c->rest2 = 1.0 - h->beta2;
    c->step_size = h->lr / rest[0];
    c->root = 1.0 / sqrt(rest[1]);
    c->eps = h->eps;
    return FASTOPT_OK;
}

#endif

#ifdef FASTOPT_LOOPS

typedef struct {
    ADAM_COEFFICIENTS(FASTOPT_IN_REAL)
} T(adam_coefficients);

LOOP T(adam_loop)(size_t n, real *restrict p, const real *restrict g, real *restrict m, real *restrict v,
                  real *restrict w, T(adam_coefficients) c, int amsgrad)
{
    for (size_t i = 0; i < n; i++) {
        const real gi = c.scale * g[i] + c.decay * p[i];
        const real mi = c.beta1 * m[i] + c.rest1 * gi;
        const real vi = c.beta2 * v[i] + c.rest2 * gi * gi;
        real u = vi;
        m[i] = mi;
        v[i] = vi;
        if (amsgrad) {
            u = w[i] > vi ? w[i] : vi;
            w[i] = u;
        }
        p[i] = c.keep * p[i] - c.step_size * mi / (real_sqrt(u) * c.root + c.eps);
    }
}

ENTRY T(adam)(size_t n, void *p, const void *g, void *const *state, const void *coefficients, unsigned options)
{
    const T(adam_coefficients) c = *(const T(adam_coefficients) *)coefficients;
    const struct adam_states *s = (const struct adam_states *)state;

    (void)options;
    if (s->max_exp_avg_sq)
        T(adam_loop)(n, p, g, s->exp_avg, s->exp_avg_sq, s->max_exp_avg_sq, c, 1);
    else
        T(adam_loop)(n, p, g, s->exp_avg, s->exp_avg_sq, NULL, c, 0);
}

#endif
