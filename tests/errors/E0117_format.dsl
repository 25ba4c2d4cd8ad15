def f(x: dim):
    a = f"{x"
    b = f"{x!r}"
    c = f"{}"
    d = f"}"
    e = f"{x:>>>}"
    g = f"{x y}"
    h = f"""{x}"""
    return f"{x[}"
