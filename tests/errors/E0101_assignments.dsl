def f(x: dim):
    if x = 1:
        return 2
    a = b = c
    g(x.y = 3)
    return f(x) = 3
