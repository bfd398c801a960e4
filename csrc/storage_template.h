/*
 * storage_template.h - converts blocks of elements from a stored type to the compute type and back.
 *
 * Each file of storage/ includes it, for each type and instruction set, with these macros, which it undefines:
 *
 *     STORED         the C type of a stored element
 *     LOAD, STORE    the conversions of one element
 *     MOVES          whether both types are float: elements are copied and not converted
 *     UNPACK, PACK   the names of the two functions
 *
 * Both functions transfer a block of `rows` times `columns` elements between memory of any strides, in bytes, and a
 * scratch buffer whose rows are `width` elements apart. In a transposed array the rows lie closer together than the
 * columns; there eight columns are walked side by side, so that whole cache lines are used before the next ones are
 * fetched, and every row of the scratch buffer gets eight elements at once.
 */
ENTRY UNPACK(size_t rows, size_t columns, const char *from, ptrdiff_t row_stride, ptrdiff_t column_stride, void *to,
             size_t width)
{
    const ptrdiff_t row_step = row_stride < 0 ? -row_stride : row_stride;
    const ptrdiff_t column_step = column_stride < 0 ? -column_stride : column_stride;
    real *out = to;

    if (column_stride == (ptrdiff_t)sizeof(STORED)) {
        for (size_t r = 0; r < rows; r++, from += row_stride) {
            const STORED *const restrict in = (const STORED *)(const void *)from;
            real *const restrict row = out + r * width;
            for (size_t c = 0; c < columns; c++)
                row[c] = LOAD(in[c]);
        }
    } else if (rows < 2 || row_step >= column_step) {
        for (size_t r = 0; r < rows; r++, from += row_stride)
            for (size_t c = 0; c < columns; c++)
                out[r * width + c] = LOAD(*(const STORED *)(const void *)(from + (ptrdiff_t)c * column_stride));
    } else {
        size_t c = 0;
        for (; MOVES && columns - c >= 4 && row_stride == (ptrdiff_t)sizeof(STORED);
             c += 4, from += 4 * column_stride) {
            size_t r = 0;
            for (; rows - r >= 4; r += 4)
                fastopt_transpose(from + r * sizeof(STORED), column_stride, (char *)(out + r * width + c),
                                  (ptrdiff_t)(width * sizeof(real)));
            for (; r < rows; r++)
                for (size_t j = 0; j < 4; j++)
                    out[r * width + c + j] =
                        LOAD(((const STORED *)(const void *)(from + (ptrdiff_t)j * column_stride))[r]);
        }
        for (; columns - c >= 8 && row_stride == (ptrdiff_t)sizeof(STORED); c += 8, from += 8 * column_stride) {
            const STORED *in[8];
            real *restrict row = out + c;
            for (int j = 0; j < 8; j++)
                in[j] = (const STORED *)(const void *)(from + j * column_stride);
            for (size_t r = 0; r < rows; r++, row += width)
                for (int j = 0; j < 8; j++)
                    row[j] = LOAD(in[j][r]);
        }
        for (; c < columns; c++, from += column_stride)
            for (size_t r = 0; r < rows; r++)
                out[r * width + c] = LOAD(*(const STORED *)(const void *)(from + (ptrdiff_t)r * row_stride));
    }
}

ENTRY PACK(size_t rows, size_t columns, char *to, ptrdiff_t row_stride, ptrdiff_t column_stride, const void *from,
           size_t width)
{
    const ptrdiff_t row_step = row_stride < 0 ? -row_stride : row_stride;
    const ptrdiff_t column_step = column_stride < 0 ? -column_stride : column_stride;
    const real *in = from;

    if (column_stride == (ptrdiff_t)sizeof(STORED)) {
        for (size_t r = 0; r < rows; r++, to += row_stride) {
            STORED *const restrict out = (STORED *)(void *)to;
            const real *const restrict row = in + r * width;
            for (size_t c = 0; c < columns; c++)
                out[c] = STORE(row[c]);
        }
    } else if (rows < 2 || row_step >= column_step) {
        for (size_t r = 0; r < rows; r++, to += row_stride)
            for (size_t c = 0; c < columns; c++)
                *(STORED *)(void *)(to + (ptrdiff_t)c * column_stride) = STORE(in[r * width + c]);
    } else {
        size_t c = 0;
        for (; MOVES && columns - c >= 4 && row_stride == (ptrdiff_t)sizeof(STORED); c += 4, to += 4 * column_stride) {
            size_t r = 0;
            for (; rows - r >= 4; r += 4)
                fastopt_transpose((const char *)(in + r * width + c), (ptrdiff_t)(width * sizeof(real)),
                                  to + r * sizeof(STORED), column_stride);
            for (; r < rows; r++)
                for (size_t j = 0; j < 4; j++)
                    ((STORED *)(void *)(to + (ptrdiff_t)j * column_stride))[r] = STORE(in[r * width + c + j]);
        }
        for (; columns - c >= 8 && row_stride == (ptrdiff_t)sizeof(STORED); c += 8, to += 8 * column_stride) {
            const real *restrict row = in + c;
            STORED *out[8];
            for (int j = 0; j < 8; j++)
                out[j] = (STORED *)(void *)(to + j * column_stride);
            for (size_t r = 0; r < rows; r++, row += width)
                for (int j = 0; j < 8; j++)
                    out[j][r] = STORE(row[j]);
        }
        for (; c < columns; c++, to += column_stride)
            for (size_t r = 0; r < rows; r++)
                *(STORED *)(void *)(to + (ptrdiff_t)r * row_stride) = STORE(in[r * width + c]);
    }
}

#undef STORED
#undef LOAD
#undef STORE
#undef MOVES
#undef UNPACK
#undef PACK
