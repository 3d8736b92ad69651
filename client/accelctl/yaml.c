/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A JSON value as YAML: block style, strings in double quotes wherever a plain one could be read as
 * something else. Only what JSON has; no anchors, no tags. Part of view.h.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "client/accelctl/view.h"

static void add_value(struct str *out, const json_t *value, int indent, bool is_in_list);

static void add_indent(struct str *out, int indent)
{
    for (int i = 0; i < indent; i++)
        str_addc(out, ' ');
}

/* May it stand without quotes? Letters, digits and a few signs, beginning with a letter or '/',
 * and no word of YAML. */
static bool is_plain(const char *s)
{
    static const char *const words[] = {"true", "false", "null", "yes", "no",
                                        "on",   "off",   "y",    "n"};

    if (!isalpha((unsigned char)s[0]) && s[0] != '/')
        return false;
    for (const char *c = s; *c != '\0'; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("_./-", *c))
            return false;
    }
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strcasecmp(s, words[i]) == 0)
            return false;
    }
    return true;
}

static void add_string(struct str *out, const char *s)
{
    if (is_plain(s)) {
        str_adds(out, s);
        return;
    }
    str_addc(out, '"');
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\')
            str_addf(out, "\\%c", c);
        else if (c == '\n')
            str_adds(out, "\\n");
        else if (c < 0x20 || c == 0x7f)
            str_addf(out, "\\x%02x", c);
        else
            str_addc(out, (char)c);
    }
    str_addc(out, '"');
}

static bool is_block(const json_t *value)
{
    return (json_is_object(value) && json_object_size(value) > 0) ||
           (json_is_array(value) && json_array_size(value) > 0);
}

static void add_object(struct str *out, const json_t *value, int indent, bool is_in_list)
{
    const char *key;
    json_t *item;
    bool is_first = is_in_list;

    json_object_foreach((json_t *)value, key, item)
    {
        if (!is_first)
            add_indent(out, indent);
        is_first = false;
        add_string(out, key);
        str_addc(out, ':');
        if (is_block(item)) {
            str_addc(out, '\n');
            add_value(out, item, json_is_array(item) ? indent : indent + 2, false);
        } else {
            str_addc(out, ' ');
            add_value(out, item, 0, false);
        }
    }
}

static void add_array(struct str *out, const json_t *value, int indent)
{
    size_t index;
    json_t *item;

    json_array_foreach(value, index, item)
    {
        add_indent(out, indent);
        str_adds(out, "- ");
        if (json_is_array(item) && is_block(item))
            str_addc(out, '\n');
        add_value(out, item, indent + 2, true);
    }
}

static void add_value(struct str *out, const json_t *value, int indent, bool is_in_list)
{
    if (is_block(value)) {
        if (json_is_object(value))
            add_object(out, value, indent, is_in_list);
        else
            add_array(out, value, indent);
        return;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT: str_adds(out, "{}"); break;
    case JSON_ARRAY: str_adds(out, "[]"); break;
    case JSON_STRING: add_string(out, json_string_value(value)); break;
    case JSON_INTEGER: str_addf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); break;
    case JSON_REAL: str_addf(out, "%g", json_real_value(value)); break;
    case JSON_TRUE: str_adds(out, "true"); break;
    case JSON_FALSE: str_adds(out, "false"); break;
    case JSON_NULL: str_adds(out, "null"); break;
    }
    str_addc(out, '\n');
}

void view_yaml(struct str *out, const json_t *value)
{
    add_value(out, value, 0, false);
}
