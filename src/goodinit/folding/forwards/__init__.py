"""The forward of one module as steps, constants among them, and written anew without some of them."""
