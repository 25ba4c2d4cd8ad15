def f(x, y: dim):
    return x


def g(x: dim, *, y=3):
    return x


def h(self):
    return 1
