/* completion.c: see completion.h. What completes the value of an option is read off how --help writes it: words in small letters are
 * choices, FILE, DIR and PATTERN paths, other capitals numbers and texts that nothing completes. */
#include "command/completion.h"

#include <ctype.h>
#include <string.h>

/* Does a value hold a path? */
static bool takes_path(const mlc_option *option)
{
    return option->argument && (strstr(option->argument, "FILE") || strstr(option->argument, "PATTERN") || strstr(option->argument, "DIR"));
}

/* Are paths directories alone? */
static bool takes_directory(const mlc_option *option)
{
    return takes_path(option) && !strstr(option->argument, "FILE") && !strstr(option->argument, "PATTERN");
}

/* The choices of a value, separated by spaces; "" when it has none. */
static void list_choices(const mlc_option *option, char choices[64])
{
    size_t length = 0;
    *choices = 0;
    for (const char *at = option->argument; at && *at; at += strcspn(at, "|"), at += *at == '|') {
        size_t letters = strcspn(at, "|");
        if (islower((unsigned char)*at) && length + letters + 2 < 64)
            length += (size_t)snprintf(choices + length, 64 - length, "%s%.*s", length ? " " : "", (int)letters, at);
    }
}

/* The name of a model as part of a shell function's. */
static void print_word(const char *name, FILE *out)
{
    for (; *name; name++)
        fputc(isalnum((unsigned char)*name) ? *name : '_', out);
}

/* Text within single quotes; `also` is one more letter to escape, for which quotes mean nothing. */
static void print_quoted(const char *text, const char *also, FILE *out)
{
    for (; *text; text++) {
        if (*text == '\'')
            fputs("'\\''", out);
        else if (strchr(also, *text))
            fprintf(out, "\\%c", *text);
        else
            fputc(*text, out);
    }
}

/* ---- bash ---- */

static void print_bash_values(const mlc_option *option, FILE *out)
{
    char choices[64];
    list_choices(option, choices);
    if (!option->argument)
        return;
    fprintf(out, "        --%s) ", option->name);
    if (*choices)
        fprintf(out, "COMPREPLY=($(compgen -W '%s' -- \"$word\")); ", choices);
    if (takes_path(option))
        fprintf(out, "compopt -o filenames 2>/dev/null; IFS=$'\\n'; COMPREPLY+=($(compgen %s -- \"${word##*=}\")) ", takes_directory(option) ? "-d" : "-f");
    fprintf(out, ";;\n");
}

static void print_bash(const mlc_model *model, FILE *out)
{
    int count;
    const mlc_option *options = mlc_options_table(&count);
    fprintf(out, "# %s --completion bash > FILE, then: source FILE\n_mlc_", model->name);
    print_word(model->name, out);
    fprintf(out, "()\n{\n    local IFS=$' \\t\\n' word=${COMP_WORDS[COMP_CWORD]} at=$((COMP_CWORD - 1))\n"
                 "    [[ $word == = ]] && word= || [[ ${COMP_WORDS[at]} != = ]] || ((at--))\n" /* bash splits at '=' */
                 "    [[ ${COMP_WORDS[at]} == -* ]] || [[ ${COMP_WORDS[at+1]} != = ]] || ((at--))\n" /* --data INPUT=PATTERN */
                 "    COMPREPLY=()\n    case ${COMP_WORDS[at]} in\n");
    for (int i = 0; i < count; i++)
        print_bash_values(&options[i], out);
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option)
            fprintf(out, "        --%s) ;;\n", model->scalars[i].name);
    fprintf(out, "        *) COMPREPLY=($(compgen -W '-h");
    for (int i = 0; i < count; i++)
        fprintf(out, " --%s", options[i].name);
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option)
            fprintf(out, " --%s", model->scalars[i].name);
    fprintf(out, "' -- \"$word\")) ;;\n    esac\n}\ncomplete -F _mlc_");
    print_word(model->name, out);
    fprintf(out, " %s\n", model->name);
}

/* ---- zsh ---- */

static void print_zsh_option(const mlc_option *option, FILE *out)
{
    char choices[64];
    list_choices(option, choices);
    fprintf(out, "        '*--%s%s[", option->name, option->argument ? "=" : "");
    print_quoted(option->help, "[]:", out);
    fputc(']', out);
    if (option->argument) {
        fputc(':', out);
        print_quoted(option->argument, "[]:", out);
        fputc(':', out);
    }
    if (takes_directory(option))
        fprintf(out, "%s", "_files -/");
    else if (takes_path(option))
        fprintf(out, "%s", "_files");
    else if (*choices)
        fprintf(out, "(%s)", choices);
    fprintf(out, "' \\\n");
}

static void print_zsh(const mlc_model *model, FILE *out)
{
    int count;
    const mlc_option *options = mlc_options_table(&count);
    fprintf(out, "#compdef %s\n# %s --completion zsh > FILE, then, after compinit: source FILE\n_mlc_", model->name, model->name);
    print_word(model->name, out);
    fprintf(out, "()\n{\n    _arguments \\\n");
    for (int i = 0; i < count; i++)
        print_zsh_option(&options[i], out);
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option)
            fprintf(out, "        '*--%s=[a constant of the model]:X:' \\\n", model->scalars[i].name);
    fprintf(out, "        '-h[write the options and end]'\n}\ncompdef _mlc_");
    print_word(model->name, out);
    fprintf(out, " %s\n", model->name);
}

/* ---- fish ---- */

static void print_fish_option(const mlc_model *model, const mlc_option *option, FILE *out)
{
    char choices[64];
    list_choices(option, choices);
    fprintf(out, "complete -c %s -l %s ", model->name, option->name);
    if (option->argument)
        fprintf(out, "%s ", takes_path(option) ? "-r -F" : "-x");
    if (*choices)
        fprintf(out, "-a '%s' ", choices);
    fprintf(out, "-d '");
    for (const char *c = option->help; *c; c++)
        fprintf(out, *c == '\'' || *c == '\\' ? "\\%c" : "%c", *c);
    fprintf(out, "'\n");
}

static void print_fish(const mlc_model *model, FILE *out)
{
    int count;
    const mlc_option *options = mlc_options_table(&count);
    fprintf(out, "# %s --completion fish > ~/.config/fish/completions/%s.fish\ncomplete -c %s -f -s h -d 'write the options and end'\n",
            model->name, model->name, model->name);
    for (int i = 0; i < count; i++)
        print_fish_option(model, &options[i], out);
    for (int i = 0; i < model->scalar_count; i++)
        if (model->scalars[i].option)
            fprintf(out, "complete -c %s -l %s -x -d 'a constant of the model'\n", model->name, model->scalars[i].name);
}

void mlc_completion_print(const mlc_model *model, const char *shell, FILE *out)
{
    if (!strcmp(shell, "bash"))
        print_bash(model, out);
    else if (!strcmp(shell, "zsh"))
        print_zsh(model, out);
    else
        print_fish(model, out);
}
