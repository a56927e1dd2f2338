"""Parse answers with what datamodel-codegen made in the folder; prints what does not fit."""
import importlib
import json
import sys

from pydantic import TypeAdapter

sys.path.insert(0, sys.argv[1])
models = importlib.import_module("models")
for what, kind, text in json.load(sys.stdin):
    try:
        TypeAdapter(eval(kind, {"models": models})).validate_json(text, strict=True)
    except ValueError as err:
        print(what, text, err)
