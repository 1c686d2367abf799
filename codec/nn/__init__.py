"""The torch side of the codec: what training and the torch engine need and the runtime does not."""
