"""What every part shares: errors, configs, knobs, files, the artefact store, progress, what
ships beside the code.

Imports nothing else of the package. Import from the modules: `from chunkwise.core.store import
Store`.
"""
