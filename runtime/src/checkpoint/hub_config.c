/* hub_config.c: see hub_config.h. Tables: which key of a config.json means which constant of a model. */
#include "checkpoint/hub_config.h"

#include "mlc.h"
#include "system/file.h"
#include "system/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES (16 << 20)
#define KEYS 6
#define NAMES 8

enum meaning {
    SAME,       /* equal */
    AT_MOST,    /* the model's is not larger: positions that the weights have not seen */
};

/* A number of the file by its keys, the constants of a model that mean it. */
typedef struct pair {
    const char *keys[KEYS];
    const char *names[NAMES]; /* the first is what --allow takes */
    enum meaning meaning;
    bool hidden; /* no shape shows it: a note where the model does not state it */
} pair;

static const pair PAIRS[] = {
    {{"num_attention_heads", "n_head", "n_heads", "num_heads"}, {"heads", "n_head", "n_heads", "num_heads"}, SAME, true},
    {{"num_key_value_heads", "n_kv_heads", "num_kv_heads"},
     {"kv_heads", "n_kv_heads", "num_kv_heads", "num_key_value_heads"},
     SAME,
     false},
    {{"rope_theta", "rotary_emb_base"}, {"theta", "rope_theta", "rope_base"}, SAME, true},
    {{"rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_eps"}, {"eps", "norm_eps", "epsilon"}, SAME, true},
    {{"tie_word_embeddings"}, {"tied", "tie", "tie_weights"}, SAME, false},
    {{"hidden_size", "n_embd", "d_model"}, {"width", "n_embd", "d_model", "hidden_size"}, SAME, false},
    {{"num_hidden_layers", "n_layer", "n_layers"}, {"depth", "n_layer", "layers", "n_layers"}, SAME, false},
    {{"intermediate_size", "n_inner", "ffn_dim"}, {"hidden", "inner", "intermediate", "d_ff"}, SAME, false},
    {{"head_dim"}, {"head_dim", "d_head"}, SAME, false},
    {{"max_position_embeddings", "n_positions", "n_ctx"}, {"context", "n_positions", "block_size"}, AT_MOST, false},
    {{"num_local_experts", "n_routed_experts", "num_experts"}, {"experts", "n_experts"}, SAME, false},
    {{"num_experts_per_tok"}, {"active", "top_k", "chosen", "experts_per_token"}, SAME, true},
};

/* What changes the model's numbers unless it has its usual value: refused where no constant of its name or another one states it. */
typedef struct twist {
    const char *key;
    const char *usual; /* as JSON writes it; null is usual too */
    const char *name;  /* of a constant with the same meaning; NULL: the key's */
} twist;

static const twist TWISTS[] = {
    {"partial_rotary_factor", "1", NULL},
    {"rotary_pct", "1", NULL},
    {"attn_logit_softcapping", "0", NULL},
    {"final_logit_softcapping", "0", NULL},
    {"embedding_multiplier", "1", NULL},
    {"residual_multiplier", "1", NULL},
    {"logits_scaling", "1", NULL},
    {"logit_scale", "1", NULL},
    {"scale_attn_weights", "true", NULL},
    {"scale_attn_by_inverse_layer_idx", "false", NULL},
    {"use_parallel_residual", "false", NULL},
    {"alibi", "false", NULL},
};

/* Functions of the library by the names that activations have. */
static const struct {
    const char *name;
    const char *called;
    int exact; /* of gelu: 1, 0; -1: any */
} ACTIVATIONS[] = {
    {"gelu", "gelu.called", 1},          {"gelu_new", "gelu.called", 0},  {"gelu_pytorch_tanh", "gelu.called", 0},
    {"gelu_fast", "gelu.called", 0},     {"gelu_accurate", "gelu.called", 0},
    {"silu", "silu.called", -1},         {"swish", "silu.called", -1},    {"relu", "relu.called", -1},
};

typedef struct comparing {
    const mlc_model *model;
    const char *path;
    mlc_hub hub;
    const mlc_json *json;
    const mlc_json_node *roots[3]; /* where keys are looked for, in this order; NULL: none */
    char differences[1000];
    char unknown[300]; /* what is not compared */
} comparing;

/* ---- both sides ---- */

static const mlc_json_node *find_key(const comparing *run, const char *key)
{
    for (int i = 0; i < 3; i++) {
        const mlc_json_node *found = run->roots[i] ? mlc_json_member(run->json, run->roots[i], key) : NULL;
        if (found && found->kind != MLC_JSON_NULL)
            return found;
    }
    return NULL;
}

/* A number or truth value. */
static bool read_number(const mlc_json_node *node, double *value)
{
    if (node->kind == MLC_JSON_BOOL)
        *value = node->truth;
    else if (node->kind == MLC_JSON_NUMBER)
        *value = strtod(node->text, NULL);
    return node->kind == MLC_JSON_BOOL || node->kind == MLC_JSON_NUMBER;
}

/* Is a constant, or what a call was given ("layer_norm.eps"), of this name? */
static bool has_name(const mlc_constant *constant, const char *name)
{
    const char *dot = strrchr(constant->name, '.');
    return !strcmp(dot ? dot + 1 : constant->name, name);
}

static const mlc_constant *find_constant(const comparing *run, const char *name)
{
    for (int i = 0; i < run->model->constant_count; i++)
        if (!strcmp(run->model->constants[i].name, name))
            return &run->model->constants[i];
    return NULL;
}

static bool is_same(double a, double b)
{
    return a == b || (isfinite(a) && isfinite(b) && fabs(a - b) <= 1e-6 * fmax(fabs(a), fabs(b))); /* as near as f32 can tell */
}

/* ---- what is said ---- */

static void add_text(char *to, size_t size, const char *separator, const char *text)
{
    size_t used = strlen(to);
    if (used + strlen(separator) + strlen(text) < size)
        snprintf(to + used, size - used, "%s%s", used ? separator : "", text);
}

static void differ(comparing *run, const char *name, const char *text)
{
    char item[300];
    if (run->hub.allows(run->hub.context, name))
        return;
    snprintf(item, sizeof item, "%s (--allow %s)", text, name);
    add_text(run->differences, sizeof run->differences, "; ", item);
}

/* A value as its side writes it. */
static void write_value(char text[32], const mlc_json_node *like, double value)
{
    if (like->kind == MLC_JSON_BOOL)
        snprintf(text, 32, "%s", value != 0 ? "true" : "false");
    else
        mlc_json_number(text, value);
}

static void differ_pair(comparing *run, const pair *pair, const char *key, const mlc_json_node *node, double theirs,
                        const mlc_constant *constant)
{
    char stated[32], own[32], way[128] = "", text[256];
    write_value(stated, node, theirs);
    write_value(own, node, constant->value);
    if (!strchr(constant->name, '.') && node->kind == MLC_JSON_BOOL)
        snprintf(way, sizeof way, ", compile with -D %.60s=%s", constant->name, theirs != 0 ? "True" : "False");
    else if (!strchr(constant->name, '.'))
        snprintf(way, sizeof way, ", compile with -D %.60s=%s", constant->name, stated);
    snprintf(text, sizeof text, "%s is %s, the model's %s %s%s", key, stated, constant->name, own, way);
    differ(run, pair->names[0], text);
}

/* ---- comparing ---- */

static bool is_different(const pair *pair, double theirs, double own)
{
    return pair->meaning == AT_MOST ? own > theirs : !is_same(theirs, own);
}

/* Compares a key with all constants of its meaning; the first that differs is said. */
static void compare_pair(comparing *run, const pair *pair)
{
    const mlc_json_node *node = NULL;
    const char *key = NULL;
    for (int k = 0; !node && k < KEYS && pair->keys[k]; k++)
        node = find_key(run, key = pair->keys[k]);
    double theirs;
    if (!node || !read_number(node, &theirs))
        return;
    bool stated = false;
    for (int i = 0; i < run->model->constant_count; i++)
        for (int n = 0; n < NAMES && pair->names[n]; n++) {
            const mlc_constant *constant = &run->model->constants[i];
            if (!has_name(constant, pair->names[n]))
                continue;
            stated = true;
            if (is_different(pair, theirs, constant->value)) {
                differ_pair(run, pair, key, node, theirs, constant);
                return;
            }
        }
    if (!stated && pair->hidden)
        add_text(run->unknown, sizeof run->unknown, ", ", key);
}

static void compare_twist(comparing *run, const twist *twist)
{
    const mlc_json_node *node = find_key(run, twist->key);
    double theirs, usual = !strcmp(twist->usual, "true") ? 1 : strtod(twist->usual, NULL);
    if (!node || !read_number(node, &theirs) || is_same(theirs, usual) || find_constant(run, twist->name ? twist->name : twist->key))
        return;
    char stated[32], text[256];
    write_value(stated, node, theirs);
    snprintf(text, sizeof text, "%s is %s, of which the model states nothing", twist->key, stated);
    differ(run, twist->key, text);
}

/* Scaled rotary positions: `stretch` is what the library's own Llama calls the factor. */
static void compare_scaling(comparing *run)
{
    const mlc_json_node *scaling = find_key(run, "rope_scaling"), *factor = scaling ? mlc_json_member(run->json, scaling, "factor") : NULL;
    const char *kind = scaling ? mlc_json_string(mlc_json_member(run->json, scaling, "rope_type")) : NULL;
    const mlc_constant *own = find_constant(run, "stretch");
    own = own ? own : find_constant(run, "rope_scaling");
    double theirs = 1;
    bool scaled = scaling && scaling->kind == MLC_JSON_OBJECT && (!kind || strcmp(kind, "default"));
    if (scaled && factor)
        read_number(factor, &theirs);
    if (scaled && !own)
        differ(run, "rope_scaling", "rope_scaling scales the positions, of which the model states nothing");
    if (own && !is_same(theirs, own->value)) {
        char text[256];
        snprintf(text, sizeof text, "rope_scaling has factor %g, the model's %s %g, compile with -D %s=%g", theirs, own->name, own->value,
                 own->name, theirs);
        differ(run, "rope_scaling", text);
    }
}

/* A window that is shorter than the context hides positions. */
static void compare_window(comparing *run)
{
    const mlc_json_node *window = find_key(run, "sliding_window"), *used = find_key(run, "use_sliding_window");
    const mlc_constant *context = find_constant(run, "context");
    double width;
    if (!window || !read_number(window, &width) || (used && used->kind == MLC_JSON_BOOL && !used->truth))
        return;
    if ((context && context->value <= width) || find_constant(run, "window") || find_constant(run, "sliding_window"))
        return;
    char text[128];
    snprintf(text, sizeof text, "sliding_window is %g, of which the model states nothing", width);
    differ(run, "sliding_window", text);
}

static const mlc_constant *find_called(const comparing *run)
{
    for (int i = 0; i < run->model->constant_count; i++)
        if (has_name(&run->model->constants[i], "called"))
            return &run->model->constants[i];
    return NULL;
}

static void compare_activation(comparing *run)
{
    static const char *const KEY[] = {"activation_function", "hidden_activation", "hidden_act"};
    const char *stated = NULL, *key = NULL;
    for (int k = 0; !stated && k < 3; k++)
        stated = mlc_json_string(find_key(run, key = KEY[k]));
    const mlc_constant *any = find_called(run), *exact = find_constant(run, "gelu.exact");
    if (!stated)
        return;
    bool known = false, same = false;
    for (size_t i = 0; i < sizeof ACTIVATIONS / sizeof *ACTIVATIONS; i++) {
        if (strcmp(ACTIVATIONS[i].name, stated))
            continue;
        known = true;
        same = find_constant(run, ACTIVATIONS[i].called) &&
               (ACTIVATIONS[i].exact < 0 || !exact || is_same(exact->value, ACTIVATIONS[i].exact));
    }
    char text[256];
    if (known && any && !same) {
        bool form = exact && !strncmp(stated, "gelu", 4);
        snprintf(text, sizeof text, "%s is %.40s, the model calls %.*s%s", key, stated, (int)strcspn(any->name, "."), any->name,
                 !form ? "" : exact->value != 0 ? " with exact=True" : " with exact=False");
        differ(run, "activation", text);
    } else if (!same) {
        add_text(run->unknown, sizeof run->unknown, ", ", key);
    }
}

static void compare_all(comparing *run)
{
    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++)
        compare_pair(run, &PAIRS[i]);
    for (size_t i = 0; i < sizeof TWISTS / sizeof *TWISTS; i++)
        compare_twist(run, &TWISTS[i]);
    compare_scaling(run);
    compare_window(run);
    compare_activation(run);
}

/* ---- the interface ---- */

static int settle(const comparing *run, mlc_error *error)
{
    char text[1000];
    if (*run->differences)
        return mlc_error_set(error, MLC_BAD_INPUT, "%.300s: these weights are for another model: %s", run->path, run->differences);
    if (*run->unknown) {
        snprintf(text, sizeof text, "%.500s: not compared, for the model states no such thing: %s", run->path, run->unknown);
        run->hub.note(run->hub.context, text);
    }
    return MLC_OK;
}

static int compare_text(const mlc_model *model, const char *path, mlc_mapping text, mlc_hub hub, mlc_error *error)
{
    mlc_json json;
    mlc_error damage = {0};
    bool passes = hub.allows(hub.context, "config.json");
    if (passes)
        return MLC_OK;
    if (text.bytes > MOST_BYTES || mlc_json_parse(&json, (const char *)text.base, text.bytes, path, &damage))
        return mlc_error_set(error, MLC_BAD_INPUT, "%.300s: cannot be compared with the model: %s (--allow config.json passes over it)", path,
                             damage.status ? "it is no JSON" : "it is too large");
    comparing run = {.model = model, .path = path, .hub = hub, .json = &json};
    run.roots[0] = &json.nodes[0];
    run.roots[1] = mlc_json_member(&json, run.roots[0], "text_config");
    run.roots[2] = mlc_json_member(&json, run.roots[1] ? run.roots[1] : run.roots[0], "rope_parameters");
    compare_all(&run);
    mlc_json_free(&json);
    return settle(&run, error);
}

int mlc_hub_compare(const mlc_model *model, const char *path, mlc_hub hub, mlc_error *error)
{
    mlc_mapping text;
    if (!mlc_path_is_file(path))
        return MLC_OK;
    if (mlc_mapping_open(&text, path, error))
        return error->status;
    compare_text(model, path, text, hub, error);
    mlc_mapping_close(&text);
    return error->status;
}
