def f(x: real[...], *args: real[...]):
    return x


def g(x: dim, **more: dim):
    return x


def h(x: dim, /, y: dim):
    return x


def i(x: dim):
    a = lambda y: y
    b = [y for y in x]
    c = f(*x)
    d = f(a, **x)
    e = [*x, 1]
    return yield x
