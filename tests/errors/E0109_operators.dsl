def f(a: bool, b: bool):
    if a && b || !a:
        return a <> b
    x = a ^ b
    x++
    x //= 2
    y = a ? b : x; z = y
    y = +a
    if (n := a):
        y = a << 1
    y = a + \
        b
    return y
