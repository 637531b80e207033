# A JSON writer: numbers read back to the same double; matrices are row-major nested arrays. `vec()` marks a vector, so
# that one of length 1 stays an array. NA, NaN and Inf become null.

vec <- function(x) array(unname(x), length(x))

to_json <- function(x) {
  if (is.null(x)) return("null")
  if (is.list(x)) {
    items <- vapply(x, to_json, "")
    if (is.null(names(x))) return(paste0("[", paste(items, collapse = ","), "]"))
    return(paste0("{", paste0("\"", names(x), "\":", items, collapse = ","), "}"))
  }
  if (is.matrix(x)) {
    rows <- vapply(seq_len(nrow(x)), function(i) paste0("[", paste(scalars(x[i, ]), collapse = ","), "]"), "")
    return(paste0("[", paste(rows, collapse = ",\n"), "]"))
  }
  if (is.array(x)) return(paste0("[", paste(scalars(x), collapse = ","), "]"))
  scalars(x)
}

scalars <- function(x) {
  if (is.character(x)) return(paste0("\"", gsub("\"", "\\\\\"", gsub("\\", "\\\\", x, fixed = TRUE)), "\""))
  if (is.logical(x)) return(ifelse(is.na(x), "null", ifelse(x, "true", "false")))
  short <- sprintf("%.15g", x)
  exact <- sprintf("%.17g", x)
  ifelse(!is.finite(x), "null", ifelse(is.finite(x) & suppressWarnings(as.numeric(short)) == x, short, exact))
}

# One case a line, compressed without a time stamp: the same results give the same bytes.
write_cases <- function(cases, path) {
  con <- gzfile(path, "wb", compression = 9)
  writeLines(c("[", paste0(vapply(cases, to_json, ""), c(rep(",", length(cases) - 1), "")), "]"), con)
  close(con)
}
