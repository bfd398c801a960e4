/*
 * table.c - the public functions that look up the table of rules and fill in structures from it, error messages, and
 * the versions of library and compiler.
 */
#include "one.h"

#include <stdio.h>

const fastopt_rule_info *fastopt_rule(int rule)
{
    return rule >= 0 && rule < RULE_COUNT ? &fastopt_rules[rule].info : NULL;
}

int fastopt_find_rule(const char *name)
{
    for (int i = 0; name && i < RULE_COUNT; i++)
        if (!strcmp(fastopt_rules[i].info.name, name))
            return i;
    return FASTOPT_ERR_RULE;
}

/* ---- Structures. ---- */

int fastopt_group_init(fastopt_group *group, size_t size, const char *rule, int type)
{
    const int index = fastopt_find_rule(rule);

    memset(group, 0, size < sizeof *group ? size : sizeof *group);
    if (size != sizeof *group)
        return FASTOPT_ERR_SIZE;
    if (index < 0)
        return FASTOPT_ERR_RULE;
    if (type != FASTOPT_F32 && type != FASTOPT_F64)
        return FASTOPT_ERR_TYPE;
    group->size = size;
    group->rule = index;
    group->type = type;
    for (int i = 0; i < fastopt_rules[index].info.hyper_count; i++)
        group->hyper[i] = fastopt_rules[index].info.hypers[i].value;
    return FASTOPT_OK;
}

int fastopt_model_init(fastopt_model *model, size_t size)
{
    memset(model, 0, size < sizeof *model ? size : sizeof *model);
    if (size != sizeof *model)
        return FASTOPT_ERR_SIZE;
    model->size = size;
    model->grad_scale = 1.0;
    model->max_norm = -1.0;
    return FASTOPT_OK;
}

int fastopt_set(fastopt_group *group, const char *name, double value)
{
    const fastopt_rule_info *info;

    if (group->size != sizeof *group)
        return FASTOPT_ERR_SIZE;
    info = fastopt_rule(group->rule);
    if (!info)
        return FASTOPT_ERR_RULE;
    for (int i = 0; name && i < info->hyper_count; i++) {
        if (!strcmp(info->hypers[i].name, name)) {
            group->hyper[i] = value;
            return FASTOPT_OK;
        }
    }
    for (int i = 0; name && i < info->option_count; i++) {
        if (!strcmp(info->options[i].name, name)) {
            group->options =
                value != 0.0 ? group->options | info->options[i].bit : group->options & ~info->options[i].bit;
            return FASTOPT_OK;
        }
    }
    return FASTOPT_ERR_OPTION;
}

int fastopt_check_hyper(int rule, int type, int index, double value)
{
    int range;

    if (rule < 0 || rule >= RULE_COUNT)
        return FASTOPT_ERR_RULE;
    if (type != FASTOPT_F32 && type != FASTOPT_F64)
        return FASTOPT_ERR_TYPE;
    if (index < 0 || index >= fastopt_rules[rule].info.hyper_count)
        return FASTOPT_ERR_UNUSED;
    range = fastopt_rules[rule].range[index];
    if (!in_bounds(fastopt_range_bounds[range][type - FASTOPT_F32], value) ||
        (range == RANGE_count && is_fractional(value)))
        return FASTOPT_ERR_HYPER - index;
    return FASTOPT_OK;
}

/* ---- Error messages. ---- */

const char *fastopt_strerror(int error)
{
    switch (error) {
    case FASTOPT_OK: return "no error";
    case FASTOPT_SKIPPED: return "the step was skipped: the norm of the gradients is not finite";
    case FASTOPT_ERR_ISA: return "FASTOPT_ISA or the caller names an instruction set that this machine does not have";
    case FASTOPT_ERR_RULE: return "there is no such rule";
    case FASTOPT_ERR_OPTION: return "the rule does not take an option, or its hyperparameters forbid it";
    case FASTOPT_ERR_BUFFER:
        return "a required buffer is NULL, or the tensors of a group do not all have the same optional buffers";
    case FASTOPT_ERR_MODEL: return "a field of the model is out of its range";
    case FASTOPT_ERR_SIZE: return "the size field of a structure is not its sizeof";
    case FASTOPT_ERR_TYPE: return "an element type is unknown, or its buffer cannot have it";
    case FASTOPT_ERR_LAYOUT:
        return "a layout does not fit its tensor, or elements that are written have the same address";
    case FASTOPT_ERR_UNUSED: return "a field that is not used here is not zero";
    case FASTOPT_ERR_WORKSPACE: return "the workspace is smaller than fastopt_workspace() says";
    }
    return error <= FASTOPT_ERR_HYPER && error > FASTOPT_ERR_HYPER - FASTOPT_MAX_HYPERS
               ? "a hyperparameter is out of its range"
               : "unknown error";
}

/* Writes where the error is: " of group 2", " of tensor 1 in group 2", or nothing. */
static void describe_place(const fastopt_error *error, char *text, size_t size)
{
    if (error->tensor >= 0)
        snprintf(text, size, " of tensor %lld in group %lld", (long long)error->tensor, (long long)error->group);
    else if (error->group >= 0)
        snprintf(text, size, " of group %lld", (long long)error->group);
    else
        text[0] = 0;
}

/* Whether a hyperparameter is out of its range only because rounding it to float gives 0, 1 or infinity. */
static int is_lost_in_float(const fastopt_error *error)
{
    const float narrow = (float)error->value;

    return error->type == FASTOPT_F32 && (double)narrow != error->value &&
           (narrow == 0.0f || narrow == 1.0f || narrow > FLT_MAX || narrow < -FLT_MAX);
}

size_t fastopt_describe(const fastopt_error *error, char *text, size_t size)
{
    char place[100];
    const char *rule = error->rule ? error->rule : "fastopt";
    const char *words = fastopt_strerror(error->code);
    int length;

    describe_place(error, place, sizeof place);
    if (error->code >= 0 || !error->name)
        length = snprintf(text, size, "%s", words);
    else if (error->code == FASTOPT_ERR_OPTION && error->takes)
        length = snprintf(text, size, "%s: %s%s needs %s", rule, error->name, place, error->takes);
    else if (!error->takes)
        length = snprintf(text, size, "%s: %s%s: %s", rule, error->name, place, words);
    else if (error->code <= FASTOPT_ERR_HYPER && is_lost_in_float(error))
        length = snprintf(text, size, "%s: %s%s must be %s, also as float, got %.17g (%g as float)", rule, error->name,
                          place, error->takes, error->value, (double)(float)error->value);
    else if (error->code <= FASTOPT_ERR_HYPER || error->code == FASTOPT_ERR_MODEL)
        length = snprintf(text, size, "%s: %s%s must be %s, got %.17g", rule, error->name, place, error->takes,
                          error->value);
    else
        length = snprintf(text, size, "%s: %s%s must be %s", rule, error->name, place, error->takes);
    return length > 0 ? (size_t)length : 0;
}

/* ---- Versions of library and compiler. ---- */

#ifndef FASTOPT_CFLAGS
#define FASTOPT_CFLAGS "unknown"
#endif
#if defined(__clang__)
#define FASTOPT_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define FASTOPT_COMPILER "gcc " __VERSION__
#else
#define FASTOPT_COMPILER "unknown"
#endif

const char *fastopt_version(void)
{
    return FASTOPT_VERSION;
}

const char *fastopt_compiler(void)
{
    return FASTOPT_COMPILER;
}

const char *fastopt_cflags(void)
{
    return FASTOPT_CFLAGS;
}
