/* version.h: the version of everything here, once. */
#ifndef HALUT_VERSION_H
#define HALUT_VERSION_H

#define HALUT_VERSION "0.1.0"

#endif
