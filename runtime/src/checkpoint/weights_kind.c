/* weights_kind.c: see weights_kind.h. Formats are told by their first bytes, as `file` does. */
#include "checkpoint/weights_kind.h"

#include "system/file.h"

#include <string.h>

#define PYTORCH                                                                                                                            \
    "a PyTorch pickle, which can run any code when it is read: where PyTorch is, convert it with "                                         \
    "safetensors.torch.save_model, or save_file(torch.load(FILE, weights_only=True), \"model.safetensors\")"
#define GGUF "a GGUF file, whose tensors are mostly quantized: take the safetensors it was made from"
#define HDF5 "an HDF5 file of Keras or TensorFlow: load it there and write safetensors (safetensors.tensorflow.save_file)"
#define TENSORFLOW "a checkpoint of TensorFlow: load it there and write safetensors (safetensors.tensorflow.save_file)"
#define FLAX "a msgpack file of Flax: load it there and write safetensors (safetensors.flax.save_file)"
#define NUMPY_ARCHIVE "an archive of NumPy arrays: write safetensors with safetensors.numpy.save_file(dict(numpy.load(FILE)), ...)"
#define NUMPY_ARRAY "one NumPy array: write safetensors with safetensors.numpy.save_file({NAME: numpy.load(FILE)}, ...)"
#define COMPRESSED "compressed: unpack it first"

typedef struct magic {
    const char *bytes;
    uint64_t count;
    uint64_t at;
    const char *kind;
} magic;

static const magic MAGICS[] = {
    {"GGUF", 4, 0, GGUF},
    {"tjgg", 4, 0, GGUF},
    {"lmgg", 4, 0, GGUF},
    {"\x89HDF\r\n\x1a\n", 8, 0, HDF5},
    {"\x93NUMPY", 6, 0, NUMPY_ARRAY},
    {"\x1f\x8b", 2, 0, COMPRESSED},
    {"\x28\xb5\x2f\xfd", 4, 0, COMPRESSED},
    {"BZh", 3, 0, COMPRESSED},
    {"\xfd" "7zXZ", 5, 0, COMPRESSED},
    {"ustar", 5, 257, "a tar archive: unpack it first (an old PyTorch file is one too)"},
    {"version https://git-lfs", 23, 0, "a pointer of Git LFS to the file, which was not fetched: git lfs pull"},
    {"<!DOCTYPE", 9, 0, "a web page: the download failed"},
    {"<!doctype", 9, 0, "a web page: the download failed"},
    {"<html", 5, 0, "a web page: the download failed"},
    {"{", 1, 0, "JSON text: give the directory, or the index named <stem>.safetensors.index.json"},
};

static bool holds(const uint8_t *data, uint64_t bytes, uint64_t at, const char *part, uint64_t count)
{
    return at + count <= bytes && !memcmp(data + at, part, count);
}

/* Of a zip archive, by the name of its first member. */
static const char *archive_kind(const uint8_t *data, uint64_t bytes)
{
    uint64_t length = bytes > 30 ? data[26] + 256U * data[27] : 0;
    length = length < bytes - 30 ? length : 0;
    return length > 4 && holds(data, bytes, 30 + length - 4, ".npy", 4) ? NUMPY_ARCHIVE : PYTORCH;
}

const char *mlc_weights_kind(const uint8_t *data, uint64_t bytes)
{
    if (holds(data, bytes, 0, "PK\3\4", 4))
        return archive_kind(data, bytes);
    if (bytes > 2 && data[0] == 0x80 && data[1] >= 2 && data[1] <= 5)
        return PYTORCH;
    for (size_t i = 0; i < sizeof MAGICS / sizeof *MAGICS; i++)
        if (holds(data, bytes, MAGICS[i].at, MAGICS[i].bytes, MAGICS[i].count))
            return MAGICS[i].kind;
    return NULL;
}

const char *mlc_weights_kind_of_name(const char *name)
{
    static const struct {
        const char *end;
        const char *kind;
    } ENDS[] = {{".bin", PYTORCH},          {".pt", PYTORCH}, {".pth", PYTORCH},   {".ckpt", PYTORCH},       {".pkl", PYTORCH},
                {".gguf", GGUF},            {".h5", HDF5},    {".msgpack", FLAX},  {".ckpt.index", TENSORFLOW},
                {".data-00000-of-00001", TENSORFLOW},         {".npz", NUMPY_ARCHIVE},
                {".safetensors", "not named model.safetensors, and no index leads to it: give the path of the file itself"}};
    for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++)
        if (mlc_path_ends(name, ENDS[i].end))
            return ENDS[i].kind;
    return NULL;
}
