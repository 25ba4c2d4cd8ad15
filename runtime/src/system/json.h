/* json.h: a reader of JSON texts (RFC 8259) for the headers of checkpoints. Hostile input gives an error, never a crash. */
#ifndef MLC_JSON_H
#define MLC_JSON_H

#include "system/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum mlc_json_kind { MLC_JSON_NULL, MLC_JSON_BOOL, MLC_JSON_NUMBER, MLC_JSON_STRING, MLC_JSON_ARRAY, MLC_JSON_OBJECT };

/* A value. Links are indices of nodes, -1: none. */
typedef struct mlc_json_node {
    enum mlc_json_kind kind;
    const char *key;  /* of an object's member; 0-terminated, NULL elsewhere */
    const char *text; /* of a string, decoded, or of a number, as written; 0-terminated */
    bool truth;
    int64_t first;    /* member or element */
    int64_t next;     /* sibling */
    int64_t count;    /* members or elements */
} mlc_json_node;

typedef struct mlc_json {
    mlc_json_node *nodes; /* [0] is the root */
    int64_t count, capacity;
    char *strings; /* all keys and texts, one after another */
} mlc_json;

/* Reads a text. `what` names it in the message. Returns a status. */
int mlc_json_parse(mlc_json *json, const char *text, size_t bytes, const char *what, mlc_error *error);
void mlc_json_free(mlc_json *json);

/* The member of an object, NULL when there is none or `node` is no object. The first of equal keys. */
const mlc_json_node *mlc_json_member(const mlc_json *json, const mlc_json_node *node, const char *key);

/* First and following child of a node, NULL at the end. */
const mlc_json_node *mlc_json_first(const mlc_json *json, const mlc_json_node *node);
const mlc_json_node *mlc_json_next(const mlc_json *json, const mlc_json_node *node);

/* A whole number that is not negative. False: it is none, or does not fit. NULL is allowed. */
bool mlc_json_whole(const mlc_json_node *node, uint64_t *value);

/* The text of a string, NULL when it is none. NULL is allowed. */
const char *mlc_json_string(const mlc_json_node *node);

/* The shortest decimal that reads back as the same number; "null" when it is not finite. */
void mlc_json_number(char text[32], double value);

#endif
