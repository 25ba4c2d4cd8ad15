def f(x: dim):
    y = (x + [1
    return y


def g(x: dim):
    return f(x))


def h(x: dim):
    return f(x]


y: dim = f(1
