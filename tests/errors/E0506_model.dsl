width: dim = 8


@train()
def recipe():
    return None
