"""What can be said of a block of statements without running it: the names it may assign, whether it may return."""

from __future__ import annotations

from mlc.syntax import tree


def assigned_names(statements: tuple[tree.Statement, ...]) -> list[str]:
    """Every name that the statements may assign."""
    names: list[str] = []
    for statement in statements:
        match statement:
            case tree.Assign(target=target) | tree.Annotate(target=target) | tree.Augment(target=target):
                names.extend(target_names(target))
            case tree.Branch(then=then, otherwise=otherwise):
                names.extend(assigned_names((*then, *otherwise)))
            case tree.Loop(target=target, body=body):
                names.extend([*target_names(target), *assigned_names(body)])
            case _:
                pass
    return names


def target_names(target: tree.Target) -> list[str]:
    if isinstance(target, tree.Name):
        return [target.name]
    return [item.name for item in target.items if isinstance(item, tree.Name)]


def returns(statements: tuple[tree.Statement, ...]) -> bool:
    """May one of the statements return?"""
    for statement in statements:
        match statement:
            case tree.Return():
                return True
            case tree.Branch(then=then, otherwise=otherwise) if returns((*then, *otherwise)):
                return True
            case tree.Loop(body=body) if returns(body):
                return True
            case _:
                pass
    return False
