"""PyTorch writings of the example models: the truth that compiled programs are held against.

Each module beside this one is named after its example and has

    DIMS                             -D settings that make the model small
    shapes(d)                        name -> shape of every parameter
    inputs(rng, d)                   one microbatch: name -> array
    forward(p, inputs, d, keys)      Outcome, in the dtype of the parameters
    recipe(name, shape, d)           the optimizer rule of a parameter
    CLIP                             largest global gradient norm, or None

They are written from the papers and PyTorch's own functions, not from the compiler's IR.
"""
