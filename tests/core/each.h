/*
 * each.h - expands the lists of rules.def: EACH(M, (a, b, c)) is M(a) M(b) M(c), for lists of one to twelve names.
 */
#define EACH(M, list) EACH_LIST(M, EACH_UNWRAP list)
#define EACH_UNWRAP(...) __VA_ARGS__
#define EACH_LIST(M, ...) EACH_PICK(__VA_ARGS__, EACH_12, EACH_11, EACH_10, EACH_9, EACH_8, EACH_7, EACH_6, EACH_5, \
                                    EACH_4, EACH_3, EACH_2, EACH_1, )(M, __VA_ARGS__)
#define EACH_PICK(a, b, c, d, e, f, g, h, i, j, k, l, each, ...) each
#define EACH_1(M, a) M(a)
#define EACH_2(M, a, ...) M(a) EACH_1(M, __VA_ARGS__)
#define EACH_3(M, a, ...) M(a) EACH_2(M, __VA_ARGS__)
#define EACH_4(M, a, ...) M(a) EACH_3(M, __VA_ARGS__)
#define EACH_5(M, a, ...) M(a) EACH_4(M, __VA_ARGS__)
#define EACH_6(M, a, ...) M(a) EACH_5(M, __VA_ARGS__)
#define EACH_7(M, a, ...) M(a) EACH_6(M, __VA_ARGS__)
#define EACH_8(M, a, ...) M(a) EACH_7(M, __VA_ARGS__)
#define EACH_9(M, a, ...) M(a) EACH_8(M, __VA_ARGS__)
#define EACH_10(M, a, ...) M(a) EACH_9(M, __VA_ARGS__)
#define EACH_11(M, a, ...) M(a) EACH_10(M, __VA_ARGS__)
#define EACH_12(M, a, ...) M(a) EACH_11(M, __VA_ARGS__)
