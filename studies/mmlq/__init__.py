"""Does MMLQ read what people say? Answered with comments whose meaning is known, on photos with real ratings."""
