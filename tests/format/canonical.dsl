"""doc"""
# comment
from mlc.nn import (linear, gelu)  # why
x: dim = 3  # one
y: dim = 4  # two
# about f


@layer
# inner
def f(x: real[..., n], m: dim = 3, *, b: bool = True, betas: (f32, f32) = (1, 2)) -> real[..., m]:
    """doc"""
    # first

    y = x @ transpose(w)[:, None, 1::2, -1] + -b ** 2  # t
    if not (a) and b:
        z = {
            "a": 1,
            "b": [
                1,
                2,
            ],
        }
        # tail of block
    # before else
    else:
        z = -x if ~a is not None else (b,)
    # odd
    weight, chosen = route(
        rows, experts=experts, active=active, groups=groups, active_groups=active_groups, scaling=scaling, name="gate", foo=barbarbar
    )
    weight, chosen = route(
        rows,
        experts=experts,
        active=active,
        groups=groups + experts * foo * bar * baz * qux + something_else_long,
        active_groups=active_groups,
        scaling=scaling,
        name="gate",
        foo=barbarbar,
    )
    loss = (
        aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
        + bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb * ccccccccccccccccccccccccccccccccccccccc
        + ddddddddddd(1, 2)
    )
    q = f(
        a,  # the a
        b,
        # own
        c,  # the c
    )
    return (f"{x}" 'a"b' "c" f"{y:.2f}")[x.shape[:-1]], x.y


# trailing
def g():
    return 1


# end
