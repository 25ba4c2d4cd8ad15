def f(x: dim, x: dim):
    return x


def g(x: dim = 1, y: dim):
    return x


def h(x: dim, *):
    return x


def i(*, x: dim, *, y: dim):
    return x
