def f(x: dim):
    y = f(x=1, 2)
    z = f(x=1, x=2)
    a = {"a": 1, "a": 2}
    b = {}
    c = {x: 1}
    return {"a": 1, b}
