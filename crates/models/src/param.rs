//! Parameters: tensors that modules read, stages train and checkpoints store.

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use recast_ops::linear::{Operand, Packed};
use std::sync::{Arc, RwLock};

/// A trainable tensor, shared by handle between the module that uses it and whoever trains,
/// saves or shares it.
#[derive(Clone, Debug)]
pub struct Param<const D: usize>(Arc<Cell<D>>);

#[derive(Debug)]
struct Cell<const D: usize> {
    tensors: RwLock<Tensors<D>>,
    /// Shape in checkpoints, where ones may stand that the module has no use for.
    stored: Vec<usize>,
    /// Panels of the value, while nobody trains it.
    packed: Packed,
}

#[derive(Debug)]
struct Tensors<const D: usize> {
    value: Tensor<D>,
    /// The autodiff leaf of the step in progress.
    leaf: Option<Tensor<D>>,
}

/// A parameter of any rank.
pub type Handle = Arc<dyn Parameter>;

/// A named parameter.
pub type Named = (String, Handle);

/// What training and storage do with a parameter.
pub trait Parameter: Send + Sync {
    /// Shape in checkpoints.
    fn stored_shape(&self) -> &[usize];
    /// Number of elements.
    fn elements(&self) -> usize {
        self.stored_shape().iter().product()
    }
    /// Makes the parameter a leaf of the graphs built from now on.
    fn track(&self);
    /// Ends tracking; returns the gradient that a backward pass left, if any.
    fn untrack(&self, gradients: Option<&mut Gradients>) -> Option<Vec<f32>>;
    /// The gradient so far, flat and on the parameter's device, without ending tracking.
    fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>>;
    /// A copy of the values, row-major.
    fn read(&self) -> Vec<f32>;
    /// Replaces the values.
    fn write(&self, values: &[f32]);
    /// Changes the values in place.
    fn update(&self, change: &mut dyn FnMut(&mut [f32]));
    /// Replaces the values by what `change` makes of them, flat and on their device. Nobody else
    /// holds the tensor that it gets, so that an optimizer may work in place.
    fn replace(&self, change: &mut dyn FnMut(Tensor<1>) -> Tensor<1>);
    /// Where the values are.
    fn device(&self) -> Device;
}

const LOCK: &str = "a parameter's lock is never held across a panic";

impl<const D: usize> Param<D> {
    /// A parameter of these values; `stored` is its shape in checkpoints.
    pub fn new(value: Tensor<D>, stored: Vec<usize>) -> Self {
        Self(Arc::new(Cell { tensors: RwLock::new(Tensors { value, leaf: None }), stored, packed: Packed::default() }))
    }

    /// The tensor to compute with: the leaf while tracked, else the plain values.
    pub fn value(&self) -> Tensor<D> {
        let tensors = self.0.tensors.read().expect(LOCK);
        tensors.leaf.as_ref().unwrap_or(&tensors.value).clone()
    }

    /// A handle that forgets the rank.
    pub fn handle(&self) -> Handle {
        self.0.clone()
    }
}

impl Param<2> {
    /// [`Param::value`] to multiply with. While nobody trains it, what products make of it is kept.
    pub fn operand(&self) -> Operand {
        let tensors = self.0.tensors.read().expect(LOCK);
        let packed = tensors.leaf.is_none().then(|| self.0.packed.clone());
        Operand { weight: tensors.leaf.as_ref().unwrap_or(&tensors.value).clone(), packed }
    }
}

impl<const D: usize> Parameter for Cell<D> {
    fn stored_shape(&self) -> &[usize] {
        &self.stored
    }

    fn track(&self) {
        let mut tensors = self.tensors.write().expect(LOCK);
        // The next step changes the value, and needs the memory.
        self.packed.forget();
        let leaf = tensors.value.clone().autodiff().require_grad();
        tensors.leaf = Some(leaf);
    }

    fn untrack(&self, gradients: Option<&mut Gradients>) -> Option<Vec<f32>> {
        let leaf = self.tensors.write().expect(LOCK).leaf.take()?;
        Some(values(leaf.grad_remove(gradients?)?))
    }

    fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<1>> {
        let tensors = self.tensors.read().expect(LOCK);
        Some(tensors.leaf.as_ref()?.grad_remove(gradients)?.reshape([-1]))
    }

    fn read(&self) -> Vec<f32> {
        values(self.tensors.read().expect(LOCK).value.clone())
    }

    fn write(&self, new: &[f32]) {
        self.update(&mut |old| old.copy_from_slice(new));
    }

    fn update(&self, change: &mut dyn FnMut(&mut [f32])) {
        self.replace(&mut |tensor| {
            let device = tensor.device();
            let mut data = values(tensor);
            change(&mut data);
            let shape = [data.len()];
            Tensor::from_data(TensorData::new(data, shape), &device)
        });
    }

    fn replace(&self, change: &mut dyn FnMut(Tensor<1>) -> Tensor<1>) {
        let mut tensors = self.tensors.write().expect(LOCK);
        self.packed.forget();
        let (device, shape) = (tensors.value.device(), tensors.value.dims());
        // Taken out, so that the storage has one owner and is changed where it lies.
        let value = std::mem::replace(&mut tensors.value, Tensor::empty([0; D], &device));
        tensors.value = change(value.reshape([-1])).reshape(shape);
    }

    fn device(&self) -> Device {
        self.tensors.read().expect(LOCK).value.device()
    }
}

/// The elements of a tensor, without a copy where it is the only owner.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("parameters and activations are f32")
}

/// Makes every handle a leaf.
pub fn track(params: &[Named]) {
    params.iter().for_each(|(_, p)| p.track());
}

/// Number of elements over all of them.
pub fn count(params: &[Named]) -> usize {
    params.iter().map(|(_, p)| p.elements()).sum()
}
