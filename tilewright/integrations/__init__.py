"""Other people's models with our kernels inside; each module needs the package that it is named after."""
