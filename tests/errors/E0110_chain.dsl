def f(a: dim, b: dim, c: dim):
    assert a < b < c
    return a == b in c
