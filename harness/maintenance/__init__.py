"""Scripts that write this project's own documents, weights and studies; nothing imports them."""
