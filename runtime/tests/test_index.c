/* test_index.c: which index out of range is the first, and which values of an input its domains hold. */
#include "check.h"
#include "mlc_kernel.h"
#include "system/index.h"
#include "system/threads.h"

static mlc_worker worker;
static mlc_team team = {.workers = &worker};
static mlc_record record;

static int32_t look_up(int64_t microbatch, int32_t site, int64_t element, int32_t value)
{
    mlc_env env = {.team = &team, .record = &record, .microbatch = &microbatch};
    return mlc_checked(&env, value, 5, element, 1, site, "place");
}

static void check_first(void)
{
    static const struct { int64_t microbatch; int32_t site; int64_t element; int32_t value; } LATER[] = {
        {3, 7, 9, 5}, {3, 7, 8, -1}, {3, 4, 20, INT32_MIN}, {2, 8, 30, INT32_MAX}};
    worker.refused = mlc_refusal_none();
    CHECK(look_up(0, 0, 0, 0) == 0 && look_up(0, 0, 0, 4) == 4 && worker.refused.site < 0);
    for (int i = 0; i < 4; i++) {
        CHECK(look_up(LATER[i].microbatch, LATER[i].site, LATER[i].element, LATER[i].value) == (LATER[i].value < 0 ? 0 : 4));
        CHECK(worker.refused.value == LATER[i].value && worker.refused.element == LATER[i].element);
    }
    for (int i = 0; i < 4; i++)
        look_up(LATER[i].microbatch, LATER[i].site, LATER[i].element, 99);
    CHECK(worker.refused.value == INT32_MAX && !strcmp(worker.refused.where, "place"));
}

/* Combined in any order, the same one is left. */
static void check_combined(void)
{
    mlc_refusal all[] = {{.microbatch = 1, .site = 2, .element = 3, .value = 1}, {.microbatch = 1, .site = 2, .element = 2, .value = 2},
                         mlc_refusal_none(), {.microbatch = 1, .site = 3, .element = 0, .value = 3}};
    for (int start = 0; start < 4; start++) {
        mlc_refusal first = mlc_refusal_none();
        for (int i = 0; i < 4; i++)
            mlc_refusal_combine(&first, &all[(start + i) % 4], sizeof first);
        CHECK(first.value == 2);
    }
}

static int64_t broken(const mlc_model *model, int input, const int32_t *values, int64_t count, const char *said)
{
    const mlc_domain *domain = NULL;
    char text[80] = "";
    int64_t at = mlc_domain_find(model, input, values, count, &domain);
    if (at >= 0)
        mlc_domain_text(text, domain);
    CHECK(!strcmp(text, said));
    return at;
}

static void check_domains(void)
{
    static const mlc_domain DOMAINS[] = {{1, 1, 0, 4, MLC_NO_VALUE}, {1, 3, -3, 1, -100}, {2, 1, INT32_MIN, INT32_MAX, MLC_NO_VALUE}};
    static const mlc_model MODEL = {.name = "model", .domains = DOMAINS, .domain_count = 3};
    CHECK(broken(&MODEL, 0, (int32_t[]){-9, 9}, 2, "") == -1);
    CHECK(broken(&MODEL, 1, (int32_t[]){4, 1, -100, 0, -3, 1, 2}, 7, "") == -1);
    CHECK(broken(&MODEL, 1, (int32_t[]){4, 1, -100, 5, -3, 1, 2}, 7, "0 to 4") == 3);
    CHECK(broken(&MODEL, 1, (int32_t[]){-100}, 1, "0 to 4") == 0);
    CHECK(broken(&MODEL, 1, (int32_t[]){4, 1, -100, 0, -3, 2}, 6, "-3 to 1, nor -100") == 5);
    CHECK(broken(&MODEL, 2, (int32_t[]){INT32_MIN, INT32_MAX}, 2, "") == -1);
}

int main(void)
{
    check_first();
    check_combined();
    check_domains();
    printf("test_index: ok\n");
    return 0;
}
