/*
 * fastopt.c - the C core in one file, made by `make amalgamation` from csrc/. Compile it alone, as `cc -O3 -c fastopt.c`;
 * fastopt.h is the contract.
 */
#define FASTOPT_INTERNAL static
#include "../threads.c" /* first: it says which POSIX it needs */
#define FASTOPT_H 1 /* fastopt.h is in it: a file may include both */

/* rules.c */

#include "../table.c"

#include "../dispatch.c"

#include "../row.c"

#include "../layout.c"

#include "../staging.c"

#include "../norm.c"

#include "../step.c"
