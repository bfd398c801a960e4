/*
 * AdamW,
 *     Loshchilov, Hutter. "Decoupled weight decay regularization." ICLR 2019, arXiv:1711.05101,
 *     algorithm 2, with the decay scaled by lr as in PyTorch:
 *
 *     p = (1 - lr*weight_decay)*p,   then Adam with g = s*g
 *
 * It is Adam's loop (adam.h), whose hyperparameters are the same, with other coefficients.
 */
static int T(adamw_prepare)(const void *hyper, unsigned options, void *const *state,
                            void *coefficients)
{
    const struct hyper_adamw *h = hyper;
    T(adam_coefficients) *c = coefficients;

    T(adam_prepare)(hyper, options, state, coefficients);
    c->decay = (real)0.0;
    c->keep = (real)(1.0 - h->lr * h->weight_decay);
    return FASTOPT_OK;
}

ENTRY T(adamw)(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
               unsigned options)
{
    T(adam)(n, p, g, state, coefficients, options);
}
