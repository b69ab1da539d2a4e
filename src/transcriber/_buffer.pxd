"""Buffers of float32 frames for the C kernels: checked once, then a pointer and a length."""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)

cdef enum:
    # Fewer frames than this take a few microseconds at most: giving the GIL away could cost more than keeping it.
    NOGIL_FRAMES = 4096


cdef inline int acquire_frames(object frames, Py_buffer *view, bint writable, str name) except -1:
    """Fill `view` with a 1-D C-contiguous float32 buffer; the caller releases it. AudioFormatError otherwise."""
    from transcriber.errors import AudioFormatError

    try:
        PyObject_GetBuffer(frames, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if writable else 0))
    except (BufferError, ValueError) as error:
        raise AudioFormatError(f"{name}: need a C-contiguous {'writable ' if writable else ''}buffer: {error}") from None
    if view.ndim == 1 and view.itemsize == sizeof(float) and view.format == b"f":
        return 0
    got = f"format {view.format.decode()!r}, {view.ndim} dimensions"
    PyBuffer_Release(view)
    raise AudioFormatError(f"{name}: need a 1-D buffer of native float32, got {got}")
